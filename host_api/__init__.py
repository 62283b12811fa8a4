"""Process control of the sidecar: locks, record, probe, launch, supervision.

The names below load on first use: the sidecar imports single modules of this package and must not pay for the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from host_api.config import HostConfig
    from host_api.connection import Connection, Event, Status
    from host_api.errors import Conflict, HostError, InUse, LaunchFailed, StateDirError, TimedOut
    from host_api.host import SidecarHost, sidecar_lifespan
    from host_api.observe import current, status
    from host_api.process import LaunchSpec
    from host_api.protocol.restarts import Backoff

_HOME = {
    "protocol.restarts": ("Backoff",),
    "errors": ("Conflict", "HostError", "InUse", "LaunchFailed", "StateDirError", "TimedOut"),
    "connection": ("Connection", "Event", "Status"),
    "host": ("SidecarHost", "sidecar_lifespan"),
    "observe": ("current", "status"),
    "process": ("LaunchSpec",),
    "config": ("HostConfig",),
}

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


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"host_api.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
