"""What passes between the listener and the engine: plain, versioned data. No MLX, no web framework, no callbacks.

Every request carries the number that its replies carry. A ``Load`` is answered by one ``Loaded``, an ``Unload`` or
``Shed`` by ``Finished``, an ``Embed`` by ``Embedded``, a ``Tokenize`` by ``Tokenized``, a ``Decide`` by ``Decided``. A
``Generate`` is answered by
``Prepared``, then for each choice ``Began`` (it left the queue), ``Prefilled`` and ``Piece`` after ``Piece`` up to one
with a ``finish``. One ``Refused`` may stand for all that is still to come. A choice's index is
``prompt * len(samplings) + sampling``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.engine.asked import Conversation as Conversation
from sidecar.engine.asked import Guide as Guide
from sidecar.engine.asked import PictureData as PictureData
from sidecar.engine.asked import Sampling as Sampling
from sidecar.engine.asked import SoundData as SoundData
from sidecar.engine.asked import Tier as Tier

LOAD_FAILED = "model_load_failed"  # the code of a refused load
LOAD_DIED = "model_load_died"  # the same of one that two engines died of
VERSION = 1  # both sides are of one program; another number means that it was replaced while it ran


# What the listener asks for
@dataclass(frozen=True, kw_only=True)
class Load:
    """Load the model in a folder."""

    id: int
    path: str


@dataclass(frozen=True, kw_only=True)
class Unload:
    """Let a model's memory go; what still runs on it ends with an error."""

    id: int
    path: str


@dataclass(frozen=True, kw_only=True)
class Shed:
    """Give up what only saves time: kept prefixes, image features, MLX's freed buffers."""

    id: int


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """Nobody wants the answers to ``id`` any more; unknown ones are ignored."""

    id: int


@dataclass(frozen=True, kw_only=True)
class Generate:
    """One request for completions: a ``conversation``, or ``prompts`` as text or token ids, held to a ``guide``.

    ``max_tokens``: of each answer; None: what the settings and the context leave. ``context``: tokens of prompt and
    answer, where that is less than the model's; 0: the model's. ``thinking_budget``: tokens of thought after which the
    answer must begin; None: no end. ``call_key``: the ids of tool calls are made from it, so that an answer begun anew
    calls them the same. ``received``: by choice, the tokens of its
    answer that the listener has; generation goes on after them and nothing of them is sent again. ``ended``: choices
    that the listener has whole. ``prompt_scores``: so many of the likeliest at each place of the ``prompts`` are told,
    with the log-probability of what stands there. ``salt``: jobs under different ones share no kept prefix.
    """

    id: int
    path: str
    samplings: tuple[Sampling, ...]
    conversation: Conversation | None = None
    prompts: tuple[str | tuple[int, ...], ...] = ()
    guide: Guide | None = None
    max_tokens: int | None = None
    context: int = 0
    thinking_budget: int | None = None
    stops: tuple[str, ...] = ()
    tier: Tier = Tier.INTERACTIVE
    priority: int = 0
    call_key: str = ""
    prompt_scores: int | None = None
    salt: str = ""
    received: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    ended: tuple[int, ...] = ()

    @property
    def choices(self) -> int:
        """How many answers there will be."""
        return len(self.samplings) * (1 if self.conversation is not None else len(self.prompts))


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Texts, token ids or pictures to turn into vectors; for a cross-encoder into how well each answers ``query``."""

    id: int
    path: str
    inputs: tuple[str | tuple[int, ...] | PictureData, ...]
    tier: Tier = Tier.INTERACTIVE
    query: str = ""


@dataclass(frozen=True, kw_only=True)
class Tokenize:
    """A text, or a conversation without its pictures, to turn into tokens."""

    id: int
    path: str
    prompt: str | None = None
    conversation: Conversation | None = None


@dataclass(frozen=True, kw_only=True)
class DecisionAsked:
    """A question of a ``Decide``: ``name`` for refusals, what is asked, and the answers it may have."""

    name: str
    conversation: Conversation
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Decide:
    """Questions whose options are to be scored. What their conversations share at the beginning is processed once."""

    id: int
    path: str
    questions: tuple[DecisionAsked, ...]
    tier: Tier = Tier.INTERACTIVE
    priority: int = 0


Request = Load | Unload | Shed | Cancel | Generate | Embed | Tokenize | Decide


# What the engine's side answers
@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What the listener needs to know of a loaded model.

    ``kind``: "chat" or "embedding". ``context``: tokens of prompt and answer together, 0 when unknown. ``thinks``: it
    reasons before it answers; ``thinking_optional``: that can be switched off. ``defaults``: sampling parameters.
    ``ranks``: it is a cross-encoder, of kind "embedding", that scores documents and gives no vectors.
    ``can``: by ability, true or the reason why not. ``preset``: what the profile asked for sets, by name; the
    listener's own.
    """

    path: str
    kind: str
    model_type: str = ""
    vocabulary: int = 0
    context: int = 0
    sees: bool = False
    ranks: bool = False
    thinks: bool = False
    thinking_optional: bool = False
    defaults: Mapping[str, float] = field(default_factory=dict)
    can: Mapping[str, bool | str] = field(default_factory=dict)
    preset: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model is in memory."""

    id: int
    model: ModelInfo


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What was asked for is done."""

    id: int


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A request ends with an error: ``status`` as HTTP, ``message`` for people."""

    id: int
    status: int
    message: str
    code: str | None = None
    param: str | None = None


@dataclass(frozen=True, kw_only=True)
class TokenText:
    """A token as clients see it: ``raw`` has its exact bytes, also where they are part of a character."""

    text: str
    raw: bytes
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A token's log-probability, and those of the likeliest in its place, best first."""

    token: TokenText
    top: tuple[TokenText, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """By prompt: how many tokens it has, and its text where it was given as token ids.

    ``remarks``: what of the request's schemas is not enforced, each with its path. ``scores``: of each prompt's tokens
    where they were asked for; the first has none, and a log-probability of 0.
    """

    id: int
    prompt_tokens: tuple[int, ...]
    texts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    scores: tuple[tuple[Scores, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Began:
    """A choice left the queue."""

    id: int
    index: int


@dataclass(frozen=True, kw_only=True)
class Prefilled:
    """A choice's prompt is processed; ``cached_tokens`` of it came from a kept prefix."""

    id: int
    index: int
    cached_tokens: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one choice gained: the ``tokens`` that came, and text that became visible.

    ``tool_calls``: deltas in OpenAI's form. ``scores``: where log-probabilities were asked for, one for each token
    whose text became visible; those behind a stop string never do.
    ``finish``: OpenAI's reason when it is the last piece, which counts the tokens of the whole answer; ``stop`` is then
    the stop string that ended it, if one did.
    """

    id: int
    index: int
    tokens: tuple[int, ...] = ()
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    scores: tuple[Scores, ...] = ()
    finish: str | None = None
    stop: str | None = None
    completion_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """``vectors``: little-endian 32-bit floats, ``width`` a text. ``tokens``: of all texts together."""

    id: int
    vectors: bytes
    width: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """The tokens asked for."""

    id: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Decided:
    """By question and option: the log-probability that the answer begins so. ``passes``: how many it took."""

    id: int
    scores: tuple[tuple[float, ...], ...]
    prompt_tokens: tuple[int, ...]
    passes: int


Reply = Loaded | Finished | Refused | Prepared | Began | Prefilled | Piece | Embedded | Tokenized | Decided
