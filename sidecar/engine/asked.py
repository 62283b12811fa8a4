"""What a request asks of a model, as plain data: its class, its sampling, its conversation."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
class PictureData:
    """An encoded image as it came. ``param`` names its place in the body, for refusals.

    ``side``: pixels its longer side is scaled down to, where that is less than the settings say; 0: as they say.
    """

    param: str
    data: bytes
    side: int = 0


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A chat to answer.

    ``messages``: OpenAI's, with a picture's part in each place of ``pictures``. ``forced``: one of ``tools`` must be
    called; ``parallel``: more than one may. ``form``: "text", "json_object" or "json_schema" (then ``schema``, which
    is enforced to the letter if ``strict``).
    ``template``: further arguments of the chat template; ``chat_template``: one to take in place of the model's.
    """

    messages: tuple[dict[str, Any], ...]
    pictures: tuple[PictureData, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    forced: bool = False
    parallel: bool = True
    form: str = "text"
    schema: dict[str, Any] | None = None
    strict: bool = False
    template: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str = ""
