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
    """How the tokens of one row are chosen. ``temperature`` 0 is greedy.

    ``min_tokens``: before so many no end is chosen; ``ignore_eos``: the model's own end never is. ``stop_tokens``:
    ids that end the answer as the model's end does, unseen.
    """

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
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_tokens: tuple[int, ...] = ()

    @property
    def penalised(self) -> bool:
        """Whether the choice depends on the tokens so far."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)


@dataclass(frozen=True, kw_only=True)
class PictureData:
    """An encoded image as it came. ``param`` names its place in the body, for refusals.

    ``side``: pixels its longer side is scaled down to, where that is less than the settings say; 0: as they say.
    ``min_pixels``, ``max_pixels``: how many it is scaled to have; 0 leaves it to the settings and the model.
    """

    param: str
    data: bytes
    side: int = 0
    min_pixels: int = 0
    max_pixels: int = 0


@dataclass(frozen=True, kw_only=True)
class SoundData:
    """A decoded sound: float32 ``samples`` of one channel, ``rate`` of them a second. ``param``: its place."""

    param: str
    samples: bytes
    rate: int


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What an answer's words are held to.

    ``kind``: "json_object"; "json_schema", whose ``schema`` is enforced to the letter if ``strict``; "regex" and
    "grammar" (llguidance's Lark or llama.cpp's GBNF) with their ``texts[0]``; "choice" of one of ``texts``.
    ``place``: the field it came in, for refusals.
    """

    kind: str
    place: str
    schema: dict[str, Any] | None = None
    strict: bool = False
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A chat to answer.

    ``messages``: OpenAI's, with a picture's part in each place of ``pictures`` and a sound's in each of ``sounds``.
    ``forced``: one of ``tools`` must be called; ``parallel``: more than one may. ``guide``: what the words are held to,
    unless a call is forced.
    ``template``: further arguments of the chat template; ``chat_template``: one to take in place of the model's.
    """

    messages: tuple[dict[str, Any], ...]
    pictures: tuple[PictureData, ...] = ()
    sounds: tuple[SoundData, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    forced: bool = False
    parallel: bool = True
    guide: Guide | None = None
    template: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str = ""
