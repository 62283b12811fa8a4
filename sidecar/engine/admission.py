"""Memory of the key-value caches: measured bytes a token, and whether one more request fits. Engine thread only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from sidecar.engine.prefix_cache import PrefixCache
from sidecar.engine.rows import GenerationRequest


class KVBudget:
    """What running requests may take together. ``limit``: bytes at the moment."""

    def __init__(self, limit: Callable[[], int], prefixes: PrefixCache) -> None:
        self.limit = limit
        self._prefixes = prefixes
        self.token_bytes = 0.0

    def measure(self, cache: Sequence[Any], *, tokens: int, rows: int) -> None:
        """Learn the bytes of a token, once, from a cache that holds ``tokens`` for each of ``rows``."""
        if not self.token_bytes:
            capacity = max(1, _capacity(cache, tokens)) * rows
            self.token_bytes = sum(_bytes(c) for c in cache) / capacity

    def bytes(self, request: GenerationRequest) -> float:
        """Estimated bytes of a request's whole cache; 0 while nothing is known."""
        return self.token_bytes * (len(request.prompt.tokens) + request.max_tokens)

    def room(self, running: Sequence[GenerationRequest]) -> float:
        """Bytes left beside ``running``; without bound while nothing is known, or nothing runs."""
        if not (self.token_bytes and running):
            return math.inf
        return self.limit() - sum(self.bytes(r) for r in running)

    def fits(self, request: GenerationRequest, room: float) -> bool:
        """Whether a request's cache fits into ``room`` bytes; kept prefixes give way to it."""
        need = self.bytes(request)
        if need > room and self._prefixes.bytes:
            self._prefixes.shrink(max(0, int(self._prefixes.bytes - (need - room))))
        return need <= room

    def admitted(
        self, first: GenerationRequest, company: Sequence[GenerationRequest], running: Sequence[GenerationRequest]
    ) -> list[GenerationRequest]:
        """Those of ``company`` that have room together, beside ``first`` and ``running``."""
        held = [*running, first]
        taken = []
        for request in company:
            if self.fits(request, self.room(held)):
                held.append(request)
                taken.append(request)
        return taken


def _capacity(cache: Sequence[Any], tokens: int) -> int:
    """Tokens the first layer's buffers have room for (they grow in steps)."""
    keys = getattr(cache[0], "keys", None)
    first = keys[0] if isinstance(keys, (tuple, list)) and keys else keys  # quantized: values, scales, biases
    return int(first.shape[2]) if isinstance(first, mx.array) else tokens


def _bytes(cache: Any) -> int:
    """Bytes of one layer's cache; mlx-vlm's quantized ones don't tell theirs."""
    parts = [getattr(cache, "keys", None), getattr(cache, "values", None)]
    arrays = [a for part in parts for a in (part if isinstance(part, (tuple, list)) else [part])]
    found = sum(int(a.nbytes) for a in arrays if isinstance(a, mx.array))
    return found or int(cache.nbytes)
