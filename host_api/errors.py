"""What a host's caller can get. Every message says what to do."""

from __future__ import annotations

from host_api.protocol.state_dir import StateDirError

__all__ = ["Conflict", "HostError", "InUse", "LaunchFailed", "StateDirError", "TimedOut"]


class HostError(Exception):
    """Base of the errors of process control; ``code`` is stable, for programs."""

    code = "host_error"


class Conflict(HostError):
    """Something is in the way that this host must not touch."""

    code = "conflict"


class LaunchFailed(HostError):
    """The sidecar didn't come up. ``permanent``: trying again won't help. ``log_tail``: its last lines."""

    code = "launch_failed"

    def __init__(self, message: str, *, exit_code: int | None, permanent: bool, log_tail: str = "") -> None:
        super().__init__(f"{message}\n{log_tail}".rstrip())
        self.exit_code = exit_code
        self.permanent = permanent
        self.log_tail = log_tail


class TimedOut(HostError):
    """It took longer than the caller's time-out."""

    code = "timeout"


class InUse(HostError):
    """``stop`` without force while others use the sidecar."""

    code = "in_use"
