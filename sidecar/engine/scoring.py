"""The log-probabilities of a prompt's own tokens, a stretch at a time so that a chat beside them waits little."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.engine.commands import fail
from sidecar.engine.messages import Tier
from sidecar.engine.rows import Token

if TYPE_CHECKING:
    import mlx.core as mx

    from sidecar.backend.loader import LoadedModel

STRETCH = 64  # tokens of one unit


@dataclass(eq=False, kw_only=True)
class ScoreJob:
    """One prompt. ``top``: how many of the likeliest are told at each place. The first token has no score.

    ``admit`` is called before its cache is made; it raises where there is no room.
    """

    model: LoadedModel
    tokens: Sequence[int]
    top: int
    admit: Callable[[], None]
    tier: Tier
    future: Future[list[Token]]
    arrived: float = field(default_factory=time.monotonic)
    done: list[Token] = field(default_factory=list)
    _cache: Any = None
    _state: Any = None

    @property
    def started(self) -> bool:
        """Return whether it has a cache."""
        return self._cache is not None

    def fail(self, exc: Exception) -> None:
        """Give an error to who waits."""
        fail(self.future, exc)

    def step(self) -> list[Token] | None:
        """Work off one stretch; return the scores once they are all there."""
        import mlx.core as mx

        from sidecar.backend.passes import PromptBatch, decode
        from sidecar.backend.positions import embed

        if not self.done:
            self.done.append(Token(self.tokens[0], 0.0))
        at = len(self.done)
        if at == len(self.tokens):
            return self.done
        if self._cache is None:
            self.admit()
            first = [self.tokens[0]]
            batch = PromptBatch(self.model.model, [0], [first], [embed(self.model.model, first)], whole=True)
            logits, self._state = batch.finish()
            self._cache = batch.cache
        else:
            ids = mx.array([list(self.tokens[at - 1 : at - 1 + STRETCH])])
            language = getattr(self.model.model, "language_model", self.model.model)
            logits = decode(language, ids, self._cache, self._state)[0]
        self._read(logits, self.tokens[at : at + STRETCH])
        return self.done if len(self.done) == len(self.tokens) else None

    def _read(self, logits: mx.array, following: Sequence[int]) -> None:
        """Take the scores [N, V] of the tokens that follow."""
        import mlx.core as mx

        from sidecar.engine.sampling import logprobs_of

        count = min(logits.shape[0], len(following))
        ids = mx.array(list(following[:count]))
        values, top_ids, top_values = logprobs_of(logits[:count], ids, self.top)
        mx.eval([a for a in (values, top_ids, top_values) if a is not None], [c.state for c in self._cache])
        for i, value in enumerate(values.tolist()):  # type: ignore[arg-type]
            top: tuple[tuple[int, float], ...] = ()
            if top_ids is not None and top_values is not None:
                top = tuple(zip(top_ids[i].tolist(), top_values[i].tolist(), strict=True))  # type: ignore[arg-type]
            self.done.append(Token(following[i], float(value), top))  # type: ignore[arg-type]
