"""Let the engine work between the blocks of a vision tower, and between the layers of a pass of batch work.

One picture, or one long pass, must not hold up a chat. MLX arrays are lazy, so a block's output is evaluated before the
engine is asked whether something more urgent waits; what is more urgent then runs inside that call, and the picture or
the pass goes on after it. What a pass has in hand in the model and in ``mixing`` is put aside meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from sidecar.backend import mixing
from sidecar.backend.positions import put_aside

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


class LayerPauses:
    """Calls ``pause`` between layers of the language model's passes, inside ``during`` alone."""

    def __init__(self, model: Any, pause: Callable[[], None]) -> None:
        self._language = getattr(model, "language_model", model)
        self._pause = pause
        self._every = self._passed = 0
        layers = mixing.layers_of(model)
        self.count = len(layers)
        for layer in layers[:-1]:
            layer.__class__ = _watched(type(layer), self.passed)

    @contextlib.contextmanager
    def during(self, pauses: int) -> Iterator[None]:
        """Let each pass be left about ``pauses`` times while the block runs."""
        before = self._every, self._passed
        self._every, self._passed = max(1, self.count // (pauses + 1)), 0
        try:
            yield
        finally:
            self._every, self._passed = before

    def passed(self, out: Any) -> None:
        """Note that a layer is through, and pause where it is time."""
        self._passed += bool(self._every)
        if not self._every or self._passed % self._every:
            return
        mx.eval(out)
        before, self._every = self._every, 0
        try:
            with mixing.put_aside(), put_aside(self._language):
                self._pause()
        finally:
            self._every = before


def _watched(kind: Any, passed: Callable[[Any], None]) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = kind.__call__(self, *args, **kwargs)
        passed(out)
        return out

    return type(kind.__name__, (kind,), {"__call__": call})


def feature_cache() -> Any:
    """Return a store of picture features by content, of the last 20 pictures."""
    from mlx_vlm.vision_cache import VisionFeatureCache

    return VisionFeatureCache(max_size=20)
