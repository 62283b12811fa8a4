"""What a request is to the engine: plain data, no MLX and no web framework."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

_ids = itertools.count(1)


class Tier(enum.IntEnum):
    """Scheduling class: interactive work goes first."""

    INTERACTIVE = 0
    BATCH = 1

    @property
    def label(self) -> str:
        """The name used on the wire and in metrics."""
        return self.name.lower()


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of one row are chosen. ``temperature`` 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0

    @property
    def penalised(self) -> bool:
        """Whether the choice depends on the tokens so far."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt ready for the engine.

    ``tokens``: ids [L]. ``inputs``: the processor's arrays when there are images (``pixel_values`` …).
    ``media``: digest of all images, "" without. ``preopens_thinking``: the template ends inside a thought.
    """

    tokens: tuple[int, ...]
    inputs: dict[str, Any] | None = None
    media: str = ""
    preopens_thinking: bool = False


@dataclass(frozen=True)
class Token:
    """One generated token. ``top``: (id, logprob) of the likeliest alternatives, best first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


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


Event = Started | Token | Done | Failed
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
    id: int = field(default_factory=lambda: next(_ids))
    # Set by the engine: tokens generated before a rebuild, which become part of the prompt.
    resumed: tuple[int, ...] = ()
    retries: int = 0
