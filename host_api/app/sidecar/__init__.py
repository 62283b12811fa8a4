"""The host service's hold on the sidecar."""
