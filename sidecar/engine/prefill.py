"""Prompts on their way into the cache, a piece at a time, and the rows they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from sidecar.backend import mixing
from sidecar.backend.cache_sizes import capacity
from sidecar.backend.caches import KVQuantization
from sidecar.backend.families import Capabilities
from sidecar.backend.passes import PromptBatch, RowState
from sidecar.backend.positions import Embedded
from sidecar.engine.actions import Prefilling
from sidecar.engine.choosing import Chosen, Row, scored, select, tokens_of
from sidecar.engine.rows import GenerationRequest, Token


@dataclass(frozen=True)
class Part:
    """One request and its prompt, embedded."""

    request: GenerationRequest
    prompt: Embedded


@dataclass(frozen=True)
class Begun:
    """A processed prompt, or a group of them: rows, their first tokens, caches [B rows], choice and state.

    A token is None where the row's scores are not numbers.
    """

    rows: list[Row]
    tokens: list[Token | None]
    cache: list[Any]
    chosen: Chosen
    state: RowState


def _batch(model: Any, parts: Sequence[Part], *, can: Capabilities, **more: Any) -> PromptBatch:
    requests = [part.request for part in parts]
    pictures = any(r.prompt.inputs is not None for r in requests)
    return PromptBatch(
        model,
        [r.id for r in requests],
        [[*r.prompt.tokens, *r.resumed] for r in requests],
        [part.prompt for part in parts],
        whole=bool(can.cut or (pictures and can.cut_pictures)),
        **more,
    )


class Prefill:
    """Prompts being processed together, most often one.

    ``start``: tokens already in ``cache`` (a kept prefix of a single prompt), not processed again.
    """

    def __init__(
        self,
        model: Any,
        parts: Sequence[Part],
        *,
        can: Capabilities,
        cache: list[Any] | None = None,
        start: int = 0,
        quantization: KVQuantization | None = None,
    ) -> None:
        self.cached_tokens = start
        self._can = can
        self._make = partial(_batch, model, can=can, cache=cache, start=start, quantization=quantization)
        self._begin(parts)

    def _begin(self, parts: Sequence[Part]) -> None:
        self._unbegun = list(parts)
        self.requests = [part.request for part in parts]
        self._countable = all(p.prompt.length == len(p.request.prompt.tokens) + len(p.request.resumed) for p in parts)
        self._batch = self._make(parts)

    @property
    def remaining(self) -> int:
        """Prompt tokens still to process, of the longest."""
        return self._batch.remaining

    @property
    def whole(self) -> bool:
        """Whether this model can't take this prompt in pieces."""
        return self._batch.whole

    @property
    def processed(self) -> int:
        """Prompt tokens in the cache, padding included."""
        return self._batch.processed

    @property
    def has(self) -> int:
        """Prompt tokens that the cache has memory for."""
        return max(self.processed, capacity(self._batch.cache))

    @property
    def ready(self) -> bool:
        """Whether only ``finish`` is left."""
        return self.whole or self.remaining <= 1

    @property
    def mixes(self) -> bool:
        """Whether its pieces can share a pass with rows."""
        return not (self._can.mix or self._can.batch) and self._batch.mixes

    def seen(self) -> Prefilling:
        """Return itself as the policy sees it."""
        first = self.requests[0]
        return Prefilling(
            id=first.id,
            tier=first.tier,
            priority=first.priority,
            arrived=first.arrived,
            remaining=self.remaining,
            rows=len(self.requests),
            whole=self.whole,
            mixes=self.mixes,
        )

    def drop(self, request_id: int) -> None:
        """Take one of several requests out."""
        if self._unbegun:  # mlx-vlm can't take rows out of caches that hold nothing
            self._begin([p for p in self._unbegun if p.request.id != request_id])
            return
        self._batch.drop(request_id)
        self.requests = [r for r in self.requests if r.id != request_id]

    def step(self, tokens: int) -> bool:
        """Process up to ``tokens`` more, all but the last one; return whether only ``finish`` is left."""
        if not self.ready:
            self._unbegun = []
            self._batch.step(tokens)
        return self.ready

    def piece(self, tokens: int) -> mixing.Tokens:
        """Return its next tokens, at most ``tokens`` of each prompt, for a pass that it shares."""
        return self._batch.piece(min(tokens, self.remaining))

    def took(self, piece: mixing.Tokens) -> bool:
        """Note that ``piece`` was processed; return whether that was the last one."""
        self._unbegun = []
        self._batch.took(piece.shape[1])
        return not self.remaining

    def finish(self) -> Begun:
        """Process all that is left and choose the first tokens."""
        if not (self._can.mix or self.whole):
            return self.begun(*self._batch.finish(cut=True))  # the weights are read once, the last token included
        if not self.whole and self.remaining > 1:
            self._batch.step(self.remaining)  # so that the last pass gives the scores of a single token
        return self.begun(*self._batch.finish())

    def finished(self, logits: mx.array, piece: mixing.Tokens) -> Begun:
        """Choose the first tokens by ``logits`` [B, V], the scores after the last ``piece``."""
        return self.begun(logits, self._batch.row_state(piece))

    def begun(self, logits: mx.array, state: RowState) -> Begun:
        """Return the rows, with first tokens chosen by ``logits`` [B, V]."""
        rows = [
            Row(
                request=request,
                cached_tokens=self.cached_tokens,
                countable=self._countable,
                answer=list(request.resumed),
                launched=len(request.resumed),
                fed=len(request.resumed),
            )
            for request in self.requests
        ]
        chosen = select(logits, rows)
        tokens = scored(logits, rows, tokens_of(chosen, rows))
        self._batch.evaluate(state)
        return Begun(rows, tokens, self._batch.cache, chosen, state)
