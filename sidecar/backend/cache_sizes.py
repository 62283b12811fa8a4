"""How many bytes a layer's cache takes, read off a cache that holds something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx


def layer_sizes(cache: Sequence[Any], rows: int) -> list[tuple[float, float, int]]:
    """Return for each layer the fixed bytes of a row, its bytes a token, and its window (0: all tokens).

    Buffers grow in steps: what a token takes follows from the room they have, not from the tokens in them.
    """
    out = []
    for entry in _flat(cache):
        arrays = _arrays(entry)
        capacity = arrays[0].shape[2] if arrays and arrays[0].ndim == 4 else 0
        if capacity:
            window = getattr(entry, "max_size", 0)
            size = sum(int(a.nbytes) for a in arrays) / (rows * capacity)
            out.append((0.0, size, int(window) if isinstance(window, int) else 0))
        else:  # a recurrent state: the same for every length
            out.append((float(getattr(entry, "nbytes", 0)) / rows, 0.0, 0))
    return out


def capacity(cache: Sequence[Any]) -> int:
    """Return how many tokens each row of a cache has memory for: buffers grow in steps. 0 where no layer tells."""
    for entry in _flat(cache):
        arrays = _arrays(entry)
        if arrays and arrays[0].ndim == 4 and not getattr(entry, "max_size", 0):
            return int(arrays[0].shape[2])
    return 0


def _flat(cache: Sequence[Any]) -> list[Any]:
    out: list[Any] = []
    for entry in cache:
        parts = getattr(entry, "caches", None)
        out.extend(_flat(parts) if isinstance(parts, (list, tuple)) else [entry])
    return out


def _arrays(entry: Any) -> list[mx.array]:
    parts = [getattr(entry, "keys", None), getattr(entry, "values", None)]
    flat = [a for part in parts for a in (part if isinstance(part, (tuple, list)) else [part])]
    return [a for a in flat if isinstance(a, mx.array)]
