"""Key-value caches of rows and prompts: made, joined, copied, cut. The engine sees lists with one entry a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_vlm import apc
from mlx_vlm.generate import ar
from mlx_vlm.models.cache import KVCache


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
    copy: list[Any] | None = apc.snapshot_prompt_cache_row(cache, row)
    return copy


def clone(cache: list[Any], length: int | None = None) -> list[Any] | None:
    """Return a copy of a single row's cache, of its first ``length`` tokens if given; None where it can't be copied."""
    source = cache if length is None else apc._dense_checkpoint_prefix(cache, length)
    copy: list[Any] | None = apc._clone_prompt_cache_for_apc(source)
    return copy


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
    """A single row's cache of ``length`` tokens, filled part by part without a second copy of all."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._layers: list[list[mx.array]] = []
        self.filled = 0

    def add(self, layers: Sequence[tuple[mx.array, mx.array]]) -> None:
        """Append what ``part`` gave. Raises ValueError where it doesn't follow what is there."""
        if not self._layers:
            self._layers = [[_buffer(one, self._length) for one in layer] for layer in layers]
        stop = self.filled + layers[0][0].shape[2]
        if len(layers) != len(self._layers) or stop > self._length:
            raise ValueError("parts of caches of different kinds")
        for whole, layer in zip(self._layers, layers, strict=True):
            for i, one in enumerate(layer):
                if one.dtype != whole[i].dtype or one.shape[1::2] != whole[i].shape[1::2]:
                    raise ValueError("parts of caches of different kinds")
                whole[i][..., self.filled : stop, :] = one
        mx.eval(self._layers)
        self.filled = stop

    def cache(self) -> list[Any]:
        """Return the cache of what was added."""
        out = []
        for keys, values in self._layers:
            entry = KVCache()
            entry.state = (keys[..., : self.filled, :], values[..., : self.filled, :])
            out.append(entry)
        return out


def _buffer(like: mx.array, length: int) -> mx.array:
    return mx.zeros((*like.shape[:2], length, like.shape[3]), like.dtype)
