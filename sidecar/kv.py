"""Memory of the key-value caches: measured bytes a token, and whether one more request fits. Engine thread only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mlx.core as mx

from sidecar.prefix_cache import PrefixCache
from sidecar.requests import GenerationRequest


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

    def fits(self, request: GenerationRequest, running: Iterable[GenerationRequest], *, beside: float = 0.0) -> bool:
        """Whether a request has room beside ``running`` and ``beside`` bytes; kept prefixes give way."""
        if not self.token_bytes:
            return True
        running = list(running)
        if not running and not beside:
            return True
        need = self.bytes(request) + beside
        room = self.limit() - sum(self.bytes(r) for r in running)
        if need > room and self._prefixes.bytes:
            self._prefixes.shrink(max(0, int(self._prefixes.bytes - (need - room))))
        return need <= room


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
