"""Rows decoded together: one forward pass for all, then each row's own choice.

``Rows.step`` works one token ahead: while the device computes the next tokens, the last ones are read and
sent. Rows bound by a grammar or penalties need the last token on the host first; a batch with such rows
doesn't work ahead. A row's own fault (its grammar, a NaN) ends that row alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.generate.ar import _extend_cache

from sidecar.engine import sampling
from sidecar.engine.rows import GenerationRequest, Token
from sidecar.engine.speculation import Lookup


@dataclass(eq=False, kw_only=True)
class Row:
    """One request being decoded."""

    request: GenerationRequest
    cached_tokens: int = 0
    answer: list[int] = field(default_factory=list)  # tokens read so far
    launched: int = 0  # tokens chosen so far, read or not
    fed: int = 0  # answer tokens whose keys and values are in the cache
    fault: str | None = None
    seen: Lookup | None = None  # what guesses are looked up in

    @property
    def on_host(self) -> bool:
        """Whether the next choice needs the last token's value."""
        return self.request.constraint is not None or self.request.sampling.penalised

    def guesses(self, count: int) -> list[int]:
        """Up to ``count`` tokens guessed to follow what was read; [] where the next choice isn't a guess's to make."""
        if self.on_host or self.request.sampling.logit_bias or self.fault is not None:
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
    """Choose every row's next token from raw ``logits`` [B, V]; marks rows whose own processing fails."""
    raw = logits
    width = logits.shape[-1]
    changed: dict[int, mx.array] = {}
    for i, row in enumerate(rows):
        s = row.request.sampling
        if row.fault is not None or not (row.on_host or s.logit_bias):
            continue
        try:
            one = sampling.adjusted(logits[i], s, row.request.prompt.tokens, row.answer)
            if row.request.constraint is not None:
                mask = row.request.constraint.mask(width)
                if mask is not None:
                    if not mask.any():
                        raise ValueError("the grammar allows no token here")
                    one = mx.where(mx.array(np.ascontiguousarray(mask)), one, -mx.inf)
            changed[i] = one
        except Exception as exc:
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


def accept(row: Row, token: int) -> None:
    """Record a token read: the row's answer, its grammar's state."""
    row.answer.append(token)
    if row.request.constraint is None or row.fault is not None:
        return
    try:
        row.request.constraint.accept(token)
    except Exception as exc:
        row.fault = f"its constraint failed: {exc}"


class Rows:
    """Rows decoded in one forward pass.

    ``steady``: they are the same as at the last step. ``guessed``: tokens that step guessed.
    """

    def __init__(self, model: Any) -> None:
        self._lm = getattr(model, "language_model", model)
        self.rows: list[Row] = []
        self._cache: list[Any] = []
        self._last: Chosen | None = None
        self._unread: list[bool] = []
        self._rope: mx.array | None = None
        self.steady = False
        self.guessed = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def in_flight(self) -> bool:
        """Whether tokens were launched that nobody has read."""
        return any(self._unread)

    @property
    def cache(self) -> list[Any]:
        """The key-value caches, a batch axis of ``len(self)``."""
        return self._cache

    def add(self, rows: Sequence[Row], cache: list[Any], chosen: Chosen, rope: mx.array | None) -> None:
        """Join rows whose prompt is done; ``chosen`` has their first tokens, already read."""
        fresh = Rows(self._lm)
        fresh.rows, fresh._cache, fresh._rope = list(rows), cache, rope
        fresh._last, fresh._unread = Chosen(chosen.ids, None), [False] * len(rows)
        self.absorb(fresh)

    def joins(self, other: Rows) -> bool:
        """Whether the rows of another batch can decode together with these."""
        return not (self.rows and other.rows) or (self._rope is None) == (other._rope is None)

    def absorb(self, other: Rows) -> None:
        """Join the rows of another batch, in flight or not; it is empty afterwards. Raises RuntimeError."""
        if not other.rows:
            return
        if not self.joins(other):
            raise RuntimeError("rows with and without rope deltas can't decode together")
        if not self.rows:
            self.rows, self._cache, self._unread = other.rows, other._cache, other._unread
            self._last, self._rope = other._last, other._rope
        else:
            assert self._last is not None
            assert other._last is not None
            self._settle()
            other._settle()
            self._cache = _extend_cache(self._cache, other._cache)
            self._last = _joined(self._last, other._last)
            if self._rope is not None and other._rope is not None:
                self._rope = mx.concatenate([self._rope, other._rope])
            self.rows = self.rows + other.rows
            self._unread = self._unread + other._unread
        self.steady = False
        other.clear()

    def split(self, part: Sequence[Row]) -> Rows:
        """Take rows out into a batch of their own; all go on exactly where they were."""
        out = Rows(self._lm)
        rest = [row for row in self.rows if row not in part]
        if not rest:
            out.absorb(self)
        elif len(rest) < len(self.rows):
            out.rows, out._unread, out._rope = list(self.rows), list(self._unread), self._rope
            out._last, out._cache = self._last, copy.deepcopy(self._cache)  # arrays are shared until one is written to
            out.remove(rest)
            self.remove(part)
        return out

    def step(self, *, ahead: bool = True, guesses: int = 0) -> list[tuple[Row, Token]]:
        """Decode; the tokens read, at most one a row. ``ahead``: leave the next ones being computed.

        Beside other work nothing is left in flight: it would be waited for, and paid, by what comes next.
        ``guesses``: of a single row so many of the tokens after the next are guessed, and come with it if right.
        """
        self.guessed = 0
        if not self.rows:
            return []
        if guesses and len(self.rows) == 1 and not self.in_flight:
            row = self.rows[0]
            guessed = row.guesses(guesses)
            self.guessed = len(guessed)
            if guessed:
                return [(row, token) for token in self._verify(row, guessed)]
            ahead = False  # the next guesses need the token that would be left in flight
        ahead = ahead and not any(row.on_host for row in self.rows)
        out: list[tuple[Row, Token]] = []
        if not self.in_flight:
            self._advance()
        if ahead and self._worth_it():
            self._advance_and_read(out)
        else:
            self._read(out)
        self.steady = True
        return out

    def _worth_it(self) -> bool:
        """Whether any row can go on after its unread token."""
        return any(row.launched < row.request.max_tokens for row in self.rows)

    def _advance_and_read(self, out: list[tuple[Row, Token]]) -> None:
        before, unread = self._last, list(self._unread)
        self._advance()
        assert before is not None
        self._emit(before, unread, out)

    def _advance(self) -> None:
        """Launch the forward pass of the last tokens and choose the next ones."""
        assert self._last is not None
        kwargs = {} if self._rope is None else {"rope_deltas": self._rope}
        output = self._lm(self._last.ids[:, None], cache=self._cache, **kwargs)
        logits = getattr(output, "logits", output)[:, -1, :]
        for row in self.rows:
            row.fed = row.launched
        self._last = select(logits, self.rows)
        self._unread = [True] * len(self.rows)
        evaluate: Any = mx.async_eval
        evaluate(self._last.arrays())

    def _verify(self, row: Row, guessed: Sequence[int]) -> list[Token]:
        """One pass over the last token and those guessed after it: what is right of them, and the token after that."""
        assert self._last is not None
        kwargs = {} if self._rope is None else {"rope_deltas": self._rope}
        fed = mx.concatenate([self._last.ids[:, None], mx.array([guessed], dtype=self._last.ids.dtype)], axis=1)
        output = self._lm(fed, cache=self._cache, **kwargs)
        logits = getattr(output, "logits", output)[0]
        count, s = len(guessed) + 1, row.request.sampling
        ids = sampling.choose(logits, [s] * count, range(row.launched, row.launched + count))
        tokens = tokens_of(Chosen(ids, *sampling.logprobs_of(logits, ids, s.top_logprobs)), [row] * count)
        right = next((i for i, guess in enumerate(guessed) if guess != tokens[i].id), len(guessed))
        for entry in self._cache:
            entry.trim(len(guessed) - right)
        self._last = Chosen(ids[right : right + 1], None)
        row.launched += right + 1
        row.fed = row.launched - 1
        for token in tokens[: right + 1]:
            accept(row, token.id)
        return tokens[: right + 1]

    def _read(self, out: list[tuple[Row, Token]]) -> None:
        assert self._last is not None
        self._emit(self._last, self._unread, out)
        self._unread = [False] * len(self.rows)

    def _emit(self, chosen: Chosen, unread: Sequence[bool], out: list[tuple[Row, Token]]) -> None:
        for row, token, new in zip(self.rows, tokens_of(chosen, self.rows), unread, strict=True):
            if new:
                accept(row, token.id)
                out.append((row, token))

    def _settle(self) -> None:
        """Finish what is in flight before the batch changes shape."""
        if self._last is not None:
            mx.eval(self._last.arrays(), [c.state for c in self._cache])

    def remove(self, gone: Sequence[Row]) -> None:
        """Drop rows; the others go on exactly where they were."""
        if not gone:
            return
        keep = [i for i, row in enumerate(self.rows) if row not in gone]
        if not keep:
            self.clear()
            return
        if len(keep) == len(self.rows):
            return
        self._settle()
        index = mx.array(keep, dtype=mx.int32)
        for entry in self._cache:
            entry.filter(index)
        assert self._last is not None
        self._last = self._last.take(index)
        self._unread = [self._unread[i] for i in keep]
        self.rows = [self.rows[i] for i in keep]
        self.steady = False
        if self._rope is not None:
            self._rope = self._rope[index]

    def clear(self) -> None:
        """Drop everything."""
        self.rows, self._cache, self._unread = [], [], []
        self._last = self._rope = None
        self.steady = False


def tokens_of(chosen: Chosen, rows: Sequence[Row]) -> list[Token]:
    """The tokens of a step as plain data; marks rows whose scores are not numbers."""
    mx.eval(chosen.arrays())
    ids: list[int] = chosen.ids.tolist()  # type: ignore[assignment]
    if chosen.logprobs is None:
        return [Token(i, 0.0) for i in ids]
    values: list[float] = chosen.logprobs.tolist()  # type: ignore[assignment]
    top_ids: Any = None if chosen.top_ids is None else chosen.top_ids.tolist()
    top_values: Any = None if chosen.top_values is None else chosen.top_values.tolist()
    out = []
    for i, row in enumerate(rows):
        if values[i] != values[i] and row.fault is None:
            row.fault = "the model's scores are not numbers (NaN)"
        k = row.request.sampling.top_logprobs
        top = tuple(zip(top_ids[i][:k], top_values[i][:k], strict=True)) if k else ()
        out.append(Token(ids[i], values[i], top))
    return out


def _joined(a: Chosen, b: Chosen) -> Chosen:
    """Two steps' tokens as one batch; scores that only one side has are filled up, nobody reads them."""
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
