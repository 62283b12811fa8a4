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
class Hold:
    """Whether batch work waits from now on, what of it has begun included. Nothing answers it."""

    batch: bool


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a request without a first token is.

    ``stage``: "queued" (``ahead`` go before it), "pictures" (``picture`` of ``pictures`` is being looked at, ``part``
    of the work on it is done) or "prompt" (``tokens_done`` of ``tokens`` are processed). ``seconds_left`` until its
    first token, None while nothing like it was measured.
    """

    id: int
    stage: str
    ahead: int = 0
    picture: int = 0
    pictures: int = 0
    part: float = 0.0
    tokens_done: int = 0
    tokens: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """How the engine does, told while it works.

    ``load_progress``: of the load going on, 0 to 1. ``stalled``: seconds its present step takes already. ``memory``:
    MLX's bytes by kind. ``progress``: of the requests without a first token, the next first. ``metered``: calls of the
    meter since the last pulse, each a method's name and its arguments.
    """

    load_progress: float | None = None
    stalled: float = 0.0
    memory: Mapping[str, int] = field(default_factory=dict)
    progress: tuple[Progress, ...] = ()
    metered: tuple[tuple[str, tuple[float, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line for the listener's log."""

    level: int
    name: str
    text: str


Message = Start | Hold | Request | Ready | Reply | Pulse | LogLine
