"""Process control of the sidecar: locks, record, probe, launch, supervision. Light to import."""

from host_api.backoff import Backoff
from host_api.errors import Conflict, HostError, InUse, LaunchFailed, StateDirError, TimedOut
from host_api.host import Connection, Event, SidecarHost, Status, current, sidecar_lifespan, status
from host_api.launcher import LaunchSpec
from host_api.supervisor import HostConfig

__all__ = [
    "Backoff",
    "Conflict",
    "Connection",
    "Event",
    "HostConfig",
    "HostError",
    "InUse",
    "LaunchFailed",
    "LaunchSpec",
    "SidecarHost",
    "StateDirError",
    "Status",
    "TimedOut",
    "current",
    "sidecar_lifespan",
    "status",
]
