"""One request being decoded, and the choice of each row's next token by its own parameters.

A row's own fault (its grammar, scores that are not numbers) is written down in the row and ends that row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from sidecar.engine import sampling
from sidecar.engine.rows import Done, Event, Failed, GenerationRequest, Token
from sidecar.engine.speculation import Lookup
from sidecar.errors import check_memory


@dataclass(eq=False, kw_only=True)
class Row:
    """One request being decoded."""

    request: GenerationRequest
    cached_tokens: int = 0
    countable: bool = True  # whether its prompt has a position in the cache for each of its tokens, and no more
    answer: list[int] = field(default_factory=list)  # tokens read so far
    launched: int = 0  # tokens chosen so far, read or not
    fed: int = 0  # answer tokens whose keys and values are in the cache
    fault: str | None = None
    nan: bool = False  # whether the fault is that its scores are not numbers
    seen: Lookup | None = None  # what guesses are looked up in

    @property
    def tokens(self) -> int:
        """Return how many tokens its prompt and answer have by now."""
        return len(self.request.prompt.tokens) + len(self.answer)

    @property
    def on_host(self) -> bool:
        """Return whether the next choice needs the last token's value."""
        return self.request.constraint is not None or self.request.sampling.penalised

    def guesses(self, count: int) -> list[int]:
        """Up to ``count`` tokens guessed to follow what was read; [] where the next choice isn't a guess's to make."""
        if self.on_host or self.request.sampling.logit_bias or self.request.held_back or self.fault is not None:
            return []
        prompt = self.request.prompt.tokens
        if self.seen is None:
            self.seen = Lookup(prompt)
        self.seen.extend(self.answer[len(self.seen) - len(prompt) :])
        return self.seen.guess(min(count, self.request.max_tokens - self.launched - 1))


@dataclass(frozen=True)
class Chosen:
    """Tokens of one step, possibly still being computed: ids [B], logprobs [B], top ids and values [B, K]."""

    ids: mx.array
    logprobs: mx.array | None
    top_ids: mx.array | None = None
    top_values: mx.array | None = None

    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate."""
        return [a for a in (self.ids, self.logprobs, self.top_ids, self.top_values) if a is not None]

    def take(self, keep: mx.array) -> Chosen:
        """The rows ``keep``."""
        return Chosen(*(None if a is None else a[keep] for a in self._parts()))  # type: ignore[arg-type]

    def _parts(self) -> tuple[mx.array | None, ...]:
        return (self.ids, self.logprobs, self.top_ids, self.top_values)


def select(logits: mx.array, rows: Sequence[Row]) -> Chosen:
    """Choose every row's next token from raw ``logits`` [B, V]; mark rows whose own processing fails."""
    raw = logits
    width = logits.shape[-1]
    changed: dict[int, mx.array] = {}
    for i, row in enumerate(rows):
        s = row.request.sampling
        if row.fault is not None or not (row.on_host or s.logit_bias or row.request.held_back):
            continue
        try:
            one = sampling.adjusted(logits[i], s, row.request.prompt.tokens, row.answer)
            allowed = _allowed(row, width)
            changed[i] = one if allowed is None else mx.where(mx.array(allowed), one, -mx.inf)
        except Exception as exc:
            check_memory(exc)
            row.fault = f"its constraint failed: {exc}"
    if changed:
        logits = mx.stack([changed.get(i, logits[i]) for i in range(len(rows))])
    params = [row.request.sampling for row in rows]
    ids = sampling.choose(logits, params, [row.launched for row in rows])
    top = max((s.top_logprobs for s in params), default=0)
    chosen, top_ids, top_values = sampling.logprobs_of(raw, ids, top)
    for row in rows:
        row.launched += 1
    return Chosen(ids, chosen, top_ids, top_values)


def _allowed(row: Row, width: int) -> NDArray[np.bool_] | None:
    """Return which of ``width`` tokens may come next [width]; None: any. Raises ValueError where none may."""
    mask: NDArray[np.bool_] | None = None
    if row.request.constraint is not None:
        mask = row.request.constraint.mask(width)
        if mask is not None and not mask.any():
            raise ValueError("the grammar allows no token here")
    barred = [token for token in row.request.barred(row.launched) if token < width]
    if not barred:
        return None if mask is None else np.ascontiguousarray(mask)
    out = np.ones(width, dtype=np.bool_) if mask is None else mask.copy()
    out[barred] = False
    return out if out.any() else mask  # a grammar that is through leaves nothing but the end


def accept(row: Row, token: int) -> None:
    """Record a token read: the row's answer, its grammar's state."""
    row.answer.append(token)
    if row.request.constraint is None or row.fault is not None:
        return
    try:
        row.request.constraint.accept(token)
    except Exception as exc:
        check_memory(exc)
        row.fault = f"its constraint failed: {exc}"


def tokens_of(chosen: Chosen, rows: Sequence[Row], unread: Sequence[bool] | None = None) -> list[Token | None]:
    """Return the tokens of a step as plain data, None for rows whose token was read before or whose scores are NaN.

    Only what is unread is looked at: of a row that joined with its token read there may be no scores.
    """
    mx.eval(chosen.arrays())
    ids: list[int] = chosen.ids.tolist()  # type: ignore[assignment]
    values: Any = None if chosen.logprobs is None else chosen.logprobs.tolist()
    top_ids: Any = None if chosen.top_ids is None else chosen.top_ids.tolist()
    top_values: Any = None if chosen.top_values is None else chosen.top_values.tolist()
    out: list[Token | None] = []
    for i, row in enumerate(rows):
        if unread is not None and not unread[i]:
            out.append(None)
            continue
        if values[i] != values[i] and row.fault is None:
            row.fault, row.nan = "the model's scores are not numbers (NaN)", True
        k = row.request.sampling.top_logprobs
        top = tuple(zip(top_ids[i][:k], top_values[i][:k], strict=True)) if k else ()
        out.append(None if row.nan else Token(ids[i], values[i], top))
    return out


def scored(logits: mx.array, rows: Sequence[Row], tokens: Sequence[Token | None]) -> list[Token | None]:
    """Return the tokens of raw ``logits`` [B, V] with the scores that their rows ask for in place of the likeliest."""
    out = list(tokens)
    for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        if row.request.scored and token is not None:
            wide = logits[i].astype(mx.float32)
            ids = row.request.scored
            values: Any = (wide[mx.array(ids)] - mx.logsumexp(wide)).tolist()
            out[i] = Token(token.id, token.logprob, tuple(zip(ids, values, strict=True)))
    return out


def deliver(row: Row, tokens: list[Token], eos: Sequence[int]) -> bool:
    """Send tokens to a row's client, or its fault; return whether the row has ended."""
    request = row.request
    if row.fault is not None:
        request.sink([Failed(500, f"This answer ended early: {row.fault}.")])
        return True
    reason = None
    ends = (*eos, *request.sampling.stop_tokens)
    end = next((i for i, token in enumerate(tokens) if token.id in ends), None)
    events: list[Event] = list(tokens if request.scored else tokens[:end])
    if end is not None or (request.constraint is not None and request.constraint.finished):
        reason = "stop"
    elif len(row.answer) >= request.max_tokens:
        reason = "length"
    if reason is not None:
        events.append(Done(reason))
    request.sink(events)
    return reason is not None


def joined(a: Chosen, b: Chosen) -> Chosen:
    """Return two steps' tokens as one batch; scores that only one side has are filled up, nobody reads them."""
    sizes = (a.ids.shape[0], b.ids.shape[0])
    width = max(0 if c.top_ids is None else c.top_ids.shape[1] for c in (a, b))

    def whole(one: mx.array | None, size: int, like: mx.array | None, *shape: int) -> mx.array:
        dtype = like.dtype if like is not None else mx.float32
        if one is None:
            return mx.zeros((size, *shape), dtype=dtype)
        missing = [(0, 0), (0, shape[0] - one.shape[1])] if shape else [(0, 0)]
        return mx.pad(one, missing)

    def both(one: mx.array | None, two: mx.array | None, *shape: int) -> mx.array | None:
        if one is None and two is None:
            return None
        return mx.concatenate([whole(one, sizes[0], two, *shape), whole(two, sizes[1], one, *shape)])

    return Chosen(
        mx.concatenate([a.ids, b.ids]),
        both(a.logprobs, b.logprobs),
        both(a.top_ids, b.top_ids, width),
        both(a.top_values, b.top_values, width),
    )
