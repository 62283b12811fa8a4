"""One lane: rows decoded in one forward pass, then each row's own choice.

A lane works one token ahead where that pays: while the device computes the next tokens, the last ones are read and
sent. Rows bound by a grammar or penalties need the last token on the host first; a lane with such rows doesn't.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from sidecar.backend import caches, mixing
from sidecar.backend.passes import RowState, decode, decoding_tokens, mixed
from sidecar.engine import sampling
from sidecar.engine.choosing import Chosen, Row, accept, joined, select, tokens_of
from sidecar.engine.rows import Token


class Lane:
    """Rows of one forward pass. ``steady``: they are the same as at the last step. ``guessed``: by that step."""

    def __init__(self, model: Any, rows: Sequence[Row], cache: list[Any], chosen: Chosen, state: RowState) -> None:
        """``cache``: with one row for each of ``rows``; ``chosen``: their last tokens, already read."""
        self._model = model
        self._lm = getattr(model, "language_model", model)
        self.rows = list(rows)
        self.cache = cache
        self.state = state
        self._last = chosen
        self._unread = [False] * len(self.rows)
        self.steady = False
        self.guessed = 0
        self.computed = False  # whether the last step launched a pass, and did not only read what was in flight

    @property
    def in_flight(self) -> bool:
        """Whether tokens were launched that nobody has read."""
        return any(self._unread)

    def joins(self, other: Lane) -> bool:
        """Return whether the rows of another lane can be decoded in this one's pass."""
        return self.state.joins(other.state) and not any(row.request.retries for row in (*self.rows, *other.rows))

    def join(self, other: Lane) -> None:
        """Take in the rows of another lane, in flight or not. Raises whatever a cache that can't be joined raises.

        Both lanes are then as they were: what is joined are copies, whose arrays are shared until one is written to. A
        lane that was joined has no cache any more.
        """
        self._settle()
        other._settle()
        cache = caches.extend(copy.deepcopy(self.cache), copy.deepcopy(other.cache))
        self._last = joined(self._last, other._last)
        self.cache, self.state = cache, self.state.joined(other.state)
        other.cache.clear()  # nothing else may hold what is copied now
        caches.settle(self.cache)
        self.rows = self.rows + other.rows
        self._unread = self._unread + other._unread
        self.steady = False

    def split(self, part: Sequence[Row]) -> Lane:
        """Take some of the rows out into a lane of their own; all go on exactly where they were."""
        rest = [row for row in self.rows if row not in part]
        out = copy.copy(self)
        out.cache = copy.deepcopy(self.cache)
        self._settle()
        out._drop(rest)
        self._drop(part)
        caches.settle(out.cache, self.cache)
        return out

    def step(self, *, ahead: bool, guesses: int) -> list[tuple[Row, Token]]:
        """Decode; return the tokens read, at most one a row unless ``guesses`` are right."""
        self.guessed = 0
        self.computed = bool(guesses)
        if guesses and len(self.rows) == 1 and not self.in_flight:
            row = self.rows[0]
            guessed = row.guesses(guesses)
            self.guessed = len(guessed)
            if guessed:
                return [(row, token) for token in self._verify(row, guessed)]
            ahead = False  # the next guesses need the token that would be left in flight
        ahead = ahead and not any(row.on_host for row in self.rows)
        if not self.in_flight:
            self._advance()
        before, unread = self._last, self._unread
        if ahead and any(row.launched < row.request.max_tokens for row in self.rows):
            self._advance()
        else:
            self._unread = [False] * len(self.rows)
        self.steady = True
        return self._read(before, unread)

    def _advance(self) -> None:
        """Launch the forward pass of the last tokens and choose the next ones."""
        self.computed = True
        caches.grow(self.cache, 1)
        logits = decode(self._lm, self._last.ids[:, None], self.cache, self.state)[:, -1, :]
        for row in self.rows:
            row.fed = row.launched
        self._last = select(logits, self.rows)
        self._unread = [True] * len(self.rows)
        evaluate: Any = mx.async_eval
        evaluate(self._last.arrays())

    def step_with(
        self, pieces: Sequence[mixing.Tokens], last: Sequence[mixing.Tokens]
    ) -> tuple[list[tuple[Row, Token]], mx.array]:
        """Decode in a pass shared with ``pieces`` of prompts; return the tokens and the scores after those of ``last``.

        Nothing may be in flight.
        """
        self.guessed, self.computed = 0, True
        caches.grow(self.cache, 1)
        rows = decoding_tokens(self._model, self._last.ids, self.cache, self.state)
        scores = mixed(self._lm, [rows, *pieces], [rows, *last])
        for row in self.rows:
            row.fed = row.launched
        count = len(self.rows)
        self._last = select(scores[:count], self.rows)
        mx.eval(self._last.arrays(), scores, [entry.state for piece in pieces for entry in piece.cache])
        self._unread = [False] * count
        self.steady = True
        return self._read(self._last, [True] * count), scores[count:]

    def _verify(self, row: Row, guessed: Sequence[int]) -> list[Token]:
        """Decode the last token and those guessed after it in one pass; return what is right of them, and the next."""
        fed = mx.concatenate([self._last.ids[:, None], mx.array([guessed], dtype=self._last.ids.dtype)], axis=1)
        logits = decode(self._lm, fed, self.cache, self.state)[0]
        count, s = len(guessed) + 1, row.request.sampling
        ids = sampling.choose(logits, [s] * count, range(row.launched, row.launched + count))
        tokens = tokens_of(Chosen(ids, *sampling.logprobs_of(logits, ids, s.top_logprobs)), [row] * count)
        right = next(
            (i for i, guess in enumerate(guessed) if (token := tokens[i]) is None or token.id != guess), len(guessed)
        )
        for entry in self.cache:
            entry.trim(len(guessed) - right)
        self._last = Chosen(ids[right : right + 1], None)
        row.launched += right + 1
        row.fed = row.launched - 1
        kept = [token for token in tokens[: right + 1] if token is not None]
        for token in kept:
            accept(row, token.id)
        return kept

    def _read(self, chosen: Chosen, unread: Sequence[bool]) -> list[tuple[Row, Token]]:
        out = []
        for row, token in zip(self.rows, tokens_of(chosen, self.rows, unread), strict=True):
            if token is not None:
                accept(row, token.id)
                out.append((row, token))
        return out

    def _settle(self) -> None:
        """Finish what is in flight before the lane changes shape."""
        mx.eval(self._last.arrays(), [c.state for c in self.cache])

    def remove(self, gone: Sequence[Row]) -> None:
        """Drop some of the rows, not all; the others go on exactly where they were."""
        if any(row in gone for row in self.rows):
            self._settle()
            self._drop(gone)
            caches.settle(self.cache)

    def _drop(self, gone: Sequence[Row]) -> None:
        keep = [i for i, row in enumerate(self.rows) if row not in gone]
        index = mx.array(keep, dtype=mx.int32)
        for entry in self.cache:
            entry.filter(index)
        self._last, self.state = self._last.take(index), self.state.take(index)
        self._unread = [self._unread[i] for i in keep]
        self.rows = [self.rows[i] for i in keep]
        self.steady = False
