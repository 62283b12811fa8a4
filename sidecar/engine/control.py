"""What the two processes tell each other about themselves, beside the requests and replies of ``messages``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.engine.messages import Reply, Request


@dataclass(frozen=True, kw_only=True)
class Start:
    """The first message to an engine process: from now on it is the engine. ``settings``: by name, as plain data."""

    version: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The engine process owns the GPU and takes requests."""

    version: int


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """How the engine does, told while it works.

    ``load_progress``: of the load going on, 0 to 1. ``stalled``: seconds its present step takes already. ``memory``:
    MLX's bytes by kind. ``metered``: calls of the meter since the last pulse, each a method's name and its arguments.
    """

    load_progress: float | None = None
    stalled: float = 0.0
    memory: Mapping[str, int] = field(default_factory=dict)
    metered: tuple[tuple[str, tuple[float, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line for the listener's log."""

    level: int
    name: str
    text: str


Message = Start | Request | Ready | Reply | Pulse | LogLine
