"""Faults of mlx-vlm that only rows decoded together can see, mended where that costs a few lines.

Each stands in docs/upstream.md with a minimal program. What can't be mended so is found by the self-check and turned
off in the model's record.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

_offsets: mx.array | None = None  # of the rows in the pass now running, tokens [B]


@contextlib.contextmanager
def rows_of(caches: Sequence[Any]) -> Iterator[None]:
    """Let the repairs see where each row of a pass stands while the block runs."""
    global _offsets
    before, offset = _offsets, getattr(caches[0], "offset", None) if caches else None
    _offsets = offset if isinstance(offset, mx.array) and offset.ndim > 0 else None
    try:
        yield
    finally:
        _offsets = before


def _attention_scale(start: int, stop: int, beta: float, max_position_embeddings: int) -> mx.array:
    """Return the scale of queries by their positions, as mlx-vlm does [L, 1], and of several rows [B, 1, L, 1].

    mlx-vlm takes the first row's positions for all, and the logarithm of 0 for padding on the left.
    """
    places = mx.arange(start, stop)
    if _offsets is not None:
        places = mx.arange(stop - start) + _offsets[:, None]
    scale = 1 + beta * mx.log(1 + mx.floor(mx.maximum(places, 0) / max_position_embeddings))
    return scale[:, None] if _offsets is None else scale[:, None, :, None]


def _skip_without_picture(layer: Any) -> None:
    """Let a cross-attention layer leave a text without a picture as it is, as the architecture does.

    mlx-vlm gives it the query's halves as keys and values instead: an answer depends on how its prompt is cut.
    """
    call = layer.__call__

    def wrapped(self: Any, hidden_states: mx.array, *args: Any, **kwargs: Any) -> Any:
        states, kept = kwargs.get("cross_attention_states"), kwargs.get("cache")
        if states is None and not (kept is not None and np.any(np.array(kept.offset) > 0)):
            return hidden_states
        return call(self, hidden_states, *args, **kwargs)

    layer.__call__ = wrapped


@cache
def mend(model_type: str) -> None:
    """Put the repairs of a family in place, its modules loaded."""
    if model_type in ("mistral3", "mistral4"):
        for name in ("mistral3", "mistral4"):
            module: Any = importlib.import_module(f"mlx_vlm.models.{name}.language")
            module._get_llama_4_attn_scale = _attention_scale
    if model_type == "mllama":
        module = importlib.import_module("mlx_vlm.models.mllama.language")
        _skip_without_picture(module.MllamaCrossAttentionDecoderLayer)
