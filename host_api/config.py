"""What a host wants of its sidecar."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from host_api.process import LaunchSpec
from host_api.protocol import state_dir
from host_api.protocol.restarts import Backoff
from host_api.protocol.states import Policy


@dataclass(frozen=True, kw_only=True)
class HostConfig:
    """What a host wants. Times in seconds."""

    state_dir: Path = field(default_factory=state_dir.default_state_dir)
    kind: str = "python"
    launch: LaunchSpec = field(default_factory=LaunchSpec)
    min_version: str = ""
    capabilities: tuple[str, ...] = ()
    timeout: float = 90.0  # of a whole ensure_running
    start_timeout: float = 60.0  # from spawn, or from a lock without a record, to an answer
    hung_after: float = 10.0  # without an answer
    drain_after: float = 30.0  # draining or failed, and still there
    term_wait: float = 5.0  # from SIGTERM to SIGKILL of a sidecar that hangs
    stop_wait: float = 25.0  # the same, of one that drains
    probe_timeout: float = 1.0
    attempts: int = 3  # starts in one ensure_running
    give_up: int = 8  # failures in a row after which a watch restarts nothing until it is asked
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        """Take a relative state directory as the caller means it: the sidecar works in another folder."""
        object.__setattr__(self, "state_dir", state_dir.absolute(self.state_dir))

    def policy(self) -> Policy:
        """Return the numbers that the machine goes by."""
        return Policy(**{name: getattr(self, name) for name in Policy.__dataclass_fields__})
