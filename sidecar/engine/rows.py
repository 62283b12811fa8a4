"""What a row to generate is inside the engine: its prompt, its parameters, and the events it gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.engine.admission import Media
from sidecar.engine.messages import Sampling, Tier

_ids = itertools.count(1)

SOUNDS = ("input_features", "audio")
"""What the names of a processor's arrays of sounds begin with."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt ready for the engine.

    ``tokens``: ids [L]. ``inputs``: the processor's arrays when there are images (``pixel_values`` …).
    ``media``: digest of all images, "" without; ``sent``: width and height of each as it came.
    ``preopens_thinking``: the template ends inside a thought.
    """

    tokens: tuple[int, ...]
    inputs: dict[str, Any] | None = None
    media: str = ""
    sent: tuple[tuple[int, int], ...] = ()
    preopens_thinking: bool = False

    @property
    def numbers(self) -> Media:
        """How many numbers the pictures are for their tower, as they are scaled, and the sounds for theirs."""
        given = self.inputs or {}
        heard = [_size(v) for name, v in given.items() if name.startswith(SOUNDS) and "mask" not in name]
        return Media(pictures=_size(given.get("pixel_values")), sounds=sum(heard))


def _size(value: Any) -> int:
    """Return how many numbers an array has, or all arrays of a list."""
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return int(getattr(value, "size", 0))


@dataclass(frozen=True)
class Token:
    """One generated token. ``top``: (id, logprob) of the likeliest alternatives, best first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Admitted:
    """The request left the queue: its prompt is being processed."""


@dataclass(frozen=True)
class Started:
    """The prompt is done; ``cached_tokens`` of it came from a kept prefix."""

    cached_tokens: int


@dataclass(frozen=True)
class Done:
    """The end of a row. ``reason``: "stop" or "length"."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """The row ended by an error: ``status`` as HTTP, ``message`` for people."""

    status: int
    message: str
    code: str | None = None


Event = Admitted | Started | Token | Done | Failed
Sink = Callable[[Sequence[Event]], None]
"""Called on the engine's thread with what a row produced since the last call."""


@dataclass(eq=False, kw_only=True)
class GenerationRequest:
    """One row to generate. ``priority``: lower goes first within its tier; ``arrived``: monotonic seconds."""

    prompt: Prompt
    sampling: Sampling
    max_tokens: int
    tier: Tier
    sink: Sink
    arrived: float
    priority: int = 0
    constraint: Any = None
    eos: tuple[int, ...] = ()  # the model's ends, where the sampling says anything of them
    id: int = field(default_factory=lambda: next(_ids))
    # Tokens of the answer that are there already, before a rebuild or before the request was sent: part of the prompt.
    resumed: tuple[int, ...] = ()
    retries: int = 0
    salt: str = ""  # prompts under different salts share no kept prefix
    job: int = 0  # the number of the listener's request that it belongs to
    scored: tuple[int, ...] = ()  # tokens whose log-probabilities the first token's ``top`` shall have

    @property
    def held_back(self) -> bool:
        """Whether ends may be barred."""
        return bool(self.sampling.min_tokens or self.sampling.ignore_eos)

    def barred(self, position: int) -> tuple[int, ...]:
        """Return the tokens that may not be chosen at a position of the answer: ends that would come too early."""
        early = position < self.sampling.min_tokens
        ends = self.eos if early or self.sampling.ignore_eos else ()
        return (*ends, *self.sampling.stop_tokens) if early else ends
