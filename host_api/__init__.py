"""Process control of the sidecar: locks, PID file, probe, launch, supervision."""
