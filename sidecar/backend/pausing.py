"""Let the engine work between the blocks of a vision tower: one picture must not hold up a chat.

MLX arrays are lazy, so a block's output is evaluated before the engine is asked whether something more
urgent waits; what is more urgent then runs inside that call, and the image goes on after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

TOWERS = ("vision_tower", "vision_model", "vision_encoder", "visual", "vision_embed_tokens")
"""Attributes of a model that hold its vision tower."""


def find_blocks(model: Any) -> list[Any]:
    """Return the transformer blocks of ``model``'s vision tower: the longest list of modules in it; [] without one."""
    longest: list[Any] = []
    for name in TOWERS:
        tower: Any = getattr(model, name, None)
        if not isinstance(tower, Module):
            continue
        walk: Any = tower.named_modules
        for _, module in walk():
            for child in module.children().values():
                if isinstance(child, list) and len(child) > len(longest) and all(isinstance(c, Module) for c in child):
                    longest = child
    return longest


class Cancelled(Exception):
    """The request being encoded went away."""


def install_pause(model: Any, pause: Callable[[], None]) -> int:
    """Call ``pause`` after every block of the vision tower; return how many there are."""
    blocks = find_blocks(model)
    for block in blocks:
        block.__class__ = _pausing(type(block), pause)
    return len(blocks)


def _pausing(kind: Any, pause: Callable[[], None]) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = kind.__call__(self, *args, **kwargs)
        mx.eval(out)
        pause()
        return out

    return type(kind.__name__, (kind,), {"__call__": call})


def feature_cache() -> Any:
    """Return a store of picture features by content, of the last 20 pictures."""
    from mlx_vlm.vision_cache import VisionFeatureCache

    return VisionFeatureCache(max_size=20)
