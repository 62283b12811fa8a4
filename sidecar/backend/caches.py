"""Key-value caches of rows and prompts: made, joined, copied, cut. The engine sees lists with one entry a layer."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_vlm import apc
from mlx_vlm.generate import ar
from mlx_vlm.models.cache import BatchKVCache, KVCache

from sidecar.backend import heap


@dataclass(frozen=True, kw_only=True)
class KVQuantization:
    """How the KV cache is quantized, if at all."""

    bits: int = 0
    group_size: int = 64

    @classmethod
    def of(cls, bits: int, config: Mapping[str, Any]) -> KVQuantization:
        """Choose the group size for a model's heads. Raises ValueError where they can't be quantized."""
        text = config.get("text_config") or config
        size = text.get("head_dim") or text.get("hidden_size", 0) // (text.get("num_attention_heads") or 1)
        group = next((g for g in (64, 32) if size and size % g == 0), 0)
        if bits and not group:
            raise ValueError(f"its heads have {size} values, not a multiple of 32; start without --kv-bits")
        return cls(bits=bits, group_size=group or 64)

    def kwargs(self) -> dict[str, Any]:
        """Return the arguments of mlx-vlm's prompt batch."""
        return {"kv_bits": self.bits, "kv_group_size": self.group_size} if self.bits else {}


def extend(cache: list[Any], other: list[Any]) -> list[Any]:
    """Join the rows of ``other`` behind those of ``cache``. Raises where a layer's cache can't be joined."""
    joined: list[Any] = ar._extend_cache(cache, other)
    return joined


def snapshot(cache: Sequence[Any], row: int) -> list[Any] | None:
    """Return a copy of one row's cache; None where a layer can't be copied."""
    with heap.exact():
        copy: list[Any] | None = apc.snapshot_prompt_cache_row(cache, row)
    return copy


def given_up(cache: Sequence[Any], tokens: int) -> list[Any] | None:
    """Return a single row's cache of ``tokens`` tokens to be kept as it is; None where it must be copied for that.

    Nobody may go on with it. The buffers are the same ones, a little longer than the tokens.
    """
    out = list[Any]()
    for entry in cache:
        if type(entry) is BatchKVCache and entry.keys is not None and entry.keys.shape[0] == 1:
            if entry.left_padding.item():
                return None
            row = KVCache()
            row.keys, row.values, row.offset = entry.keys, entry.values, entry._idx
            out.append(row)
        else:
            out.append(entry)
    return out if can_be_cut(out, tokens) else None


def clone(cache: list[Any], length: int | None = None) -> list[Any] | None:
    """Return a copy of a single row's cache, of its first ``length`` tokens if given; None where it can't be copied."""
    source = cache if length is None else apc._dense_checkpoint_prefix(cache, length)
    copy: list[Any] | None = apc._clone_prompt_cache_for_apc(source)
    return copy


def shared(cache: list[Any], length: int) -> list[Any] | None:
    """Return the first ``length`` tokens of a single row's cache to go on from, None where it can't be had.

    Where the cache holds every token's keys and values nothing is copied: MLX's arrays never change, so whoever writes
    behind them makes buffers of its own. Else it is a copy.
    """
    if all(type(entry) is KVCache for entry in cache):
        out: list[Any] = apc._dense_checkpoint_prefix(cache, length)
        return out
    return clone(cache)


def settle(*caches: list[Any]) -> None:
    """Compute what was done to caches with the same layers (joined, filtered) some layers at a time.

    In one evaluation the old caches of all layers are in memory beside the new ones, whatever order they are computed
    in: joining two rows of 1,300 tokens took the starter's engine 120 MB over its group's limit.
    """
    states, size = list[Any](), 0
    for layers in zip(*caches, strict=True):
        flat: Any = [tree_flatten(entry.state) for entry in layers]
        arrays = [array for state in flat for _, array in state if array is not None]
        states += arrays
        size += sum(array.nbytes for array in arrays)
        if size > heap.at_once():
            _evaluate(states)
            states, size = [], 0
    if size:
        _evaluate(states)


def _evaluate(states: Sequence[mx.array]) -> None:
    with heap.exact():
        mx.eval(states)
    heap.trim_if_short()  # the old ones are free now


def grow(cache: Sequence[Any], tokens: int) -> bool:
    """Make room for ``tokens`` more in the caches that grow by copies, some layers at a time (see ``settle``).

    Returns whether there is room in all of them.
    """
    states, size = list[Any](), 0
    for entry in cache:
        if type(entry) not in (KVCache, BatchKVCache) or entry.keys is None:
            continue
        used = int(entry.offset if isinstance(entry, KVCache) else entry._idx)
        missing = -(-(used + tokens) // entry.step) * entry.step - entry.keys.shape[2]
        if used + tokens <= entry.keys.shape[2]:
            continue
        entry.keys, entry.values = (
            mx.concatenate([a, mx.zeros((*a.shape[:2], missing, a.shape[3]), a.dtype)], axis=2)
            for a in (entry.keys, entry.values)
        )
        states += [entry.keys, entry.values]
        size += int(entry.nbytes)
        if size > heap.at_once():
            _evaluate(states)
            states, size = [], 0
    if size:
        _evaluate(states)
    return all(type(entry) in (KVCache, BatchKVCache) and entry.keys is not None for entry in cache)


def can_be_cut(cache: Sequence[Any], tokens: int) -> bool:
    """Return whether a single row's cache of ``tokens`` tokens holds every shorter prefix of them, too."""
    return bool(apc._dense_checkpoint_trimmable(cache, tokens))


def without_rewind(model: Any) -> list[str]:
    """Return the names of the kinds of cache of ``model`` that can't take tokens back, sorted."""
    language = getattr(model, "language_model", model)
    return sorted({type(c).__name__ for c in ar._make_cache(language, [0]) if not c.is_trimmable()})


def part(cache: Sequence[Any], start: int, stop: int) -> list[tuple[Any, Any]]:
    """Return keys and values [1, H, N, D] of each layer of a single row's cache that can be cut, for some tokens."""
    return [(c.keys[..., start:stop, :], c.values[..., start:stop, :]) for c in cache]


class Joined:
    """A single row's cache of ``length`` tokens, put together from unpacked parts by several threads at once.

    The parts' bytes are copied once, into buffers of the whole length. (MLX's own slice assignment copied the whole
    buffer for each part: 3 s for 290 MB.)
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._lock = threading.Lock()
        self._layers: list[list[tuple[mx.Dtype, np.ndarray]]] = []

    def add(self, layers: Sequence[Sequence[tuple[mx.Dtype, np.ndarray]]], start: int, tokens: int) -> None:
        """Put the first ``tokens`` tokens of a ``part``, unpacked as ``packing.raw_rows``, at their place.

        Raises ValueError where they don't fit.
        """
        shapes = [[(dtype, array.shape[:2], array.shape[3]) for dtype, array in layer] for layer in layers]
        with self._lock:
            if not self._layers:
                self._layers = [
                    [(dtype, np.empty((*first, self._length, last), np.uint8)) for dtype, first, last in layer]
                    for layer in shapes
                ]
        whole = [[(dtype, array.shape[:2], array.shape[3]) for dtype, array in layer] for layer in self._layers]
        if shapes != whole or any(array.shape[2] < tokens for layer in layers for _, array in layer):
            raise ValueError("parts of caches of different kinds")
        for buffers, layer in zip(self._layers, layers, strict=True):
            for (_, buffer), (_, array) in zip(buffers, layer, strict=True):
                buffer[:, :, start : start + tokens] = array[:, :, :tokens]

    def cache(self, tokens: int) -> list[Any]:
        """Return the cache of the first ``tokens`` tokens. On the thread that owns MLX."""
        out = []
        for layer in self._layers:
            entry = KVCache()
            entry.state = tuple(mx.array(buffer[:, :, :tokens]).view(dtype) for dtype, buffer in layer)
            out.append(entry)
        mx.eval([entry.state for entry in out])
        return out
