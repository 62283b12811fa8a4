"""What a vision tower gave for a picture, kept for the conversation's next turn.

A client sends a conversation's pictures with every turn, and the prefix that is kept of it spares the language model's
work alone: to have the prompt's embeddings, mlx-vlm's families run their towers anew (seconds for a large picture), but
for four of them. So the tower's own call is remembered, by the content of all that is given to it: the same pixels give
the same features, for any family, at the cost of a hash (some 20 ms for a picture of 1,700 tokens).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten, tree_map

from sidecar.backend.pausing import TOWERS

_SMALL = 1 << 14  # bytes of arguments below which there is no picture in them


class Disk(Protocol):
    """Where features are kept as well, by the digest of the tower's arguments."""

    def get(self, key: bytes) -> Any:
        """Return what was kept; None for nothing."""

    def save(self, key: bytes, value: Any, done: Callable[[], None]) -> bool:
        """Keep features; return whether that was begun. ``done`` is called, on another thread, at the end."""


class FeatureMemory:
    """Features by the content of the tower's arguments, at most ``limit`` bytes; the least recently used go first."""

    def __init__(self, limit: int = 256 << 20, disk: Disk | None = None) -> None:
        self._limit = limit
        self._disk = disk
        self._unsaved: list[bytes] = []
        self._kept: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        self.hits = 0

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(size for _, size in self._kept.values())

    def clear(self) -> None:
        """Drop all."""
        self._kept.clear()

    def get(self, key: bytes) -> Any:
        """Return what was kept under a key, as arrays of the caller's own; None for nothing."""
        found = self._kept.get(key)
        if found is None:
            value = self._disk.get(key) if self._disk is not None else None
            if value is not None:
                self.hits += 1
                self._keep(key, value)
            return value
        self.hits += 1
        self._kept.move_to_end(key)
        return _copied(found[0])

    def put(self, key: bytes, value: Any) -> None:
        """Keep a tower's output, evaluated, if all of it is arrays and it fits."""
        flat: Any = tree_flatten(value)
        if not flat or not all(isinstance(leaf, mx.array) or leaf is None for _, leaf in flat):
            return
        if self._keep(key, value) and self._disk is not None:
            self._unsaved.append(key)

    def _keep(self, key: bytes, value: Any) -> bool:
        flat: Any = tree_flatten(value)
        size = sum(int(leaf.nbytes) for _, leaf in flat if leaf is not None)
        if size > self._limit:
            return False
        self._kept[key] = (_copied(value), size)
        self.shrink(self._limit)
        return True

    def shrink(self, limit: int) -> None:
        """Drop what was used least recently until at most ``limit`` bytes are held."""
        while self._kept and self.size > limit:
            self._kept.popitem(last=False)

    def save(self, done: Callable[[], None]) -> bool:
        """Bring one picture's features to the disk; return whether they are on their way. See ``Disk.save``."""
        while self._unsaved and self._disk is not None:
            key = self._unsaved.pop()
            if key in self._kept and self._disk.save(key, self._kept[key][0], done):
                return True
        return False


def remember(model: Any, memory: FeatureMemory) -> int:
    """Let the vision towers of ``model`` give from ``memory`` what they gave before; return how many there are."""
    count = 0
    for name in TOWERS:
        tower: Any = getattr(model, name, None)
        if isinstance(tower, Module):
            tower.__class__ = _remembering(type(tower), memory, name)
            count += 1
    return count


def _remembering(kind: Any, memory: FeatureMemory, name: str) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        key = _key(name, args, kwargs)
        if key is None:
            return kind.__call__(self, *args, **kwargs)
        found = memory.get(key)
        if found is None:
            found = kind.__call__(self, *args, **kwargs)
            flat: Any = tree_flatten(found)
            mx.eval([leaf for _, leaf in flat if isinstance(leaf, mx.array)])
            memory.put(key, found)
        return found

    return type(kind.__name__, (kind,), {"__call__": call})


def _key(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """Return a digest of a tower's arguments; None where they hold no picture or something that can't be compared."""
    digest = hashlib.sha256(name.encode())
    total = 0
    flat: Any = tree_flatten([list(args), dict(kwargs)])
    for place, leaf in flat:
        digest.update(f"|{place}:{type(leaf).__name__}:".encode())
        if isinstance(leaf, mx.array):
            digest.update(f"{leaf.shape}{leaf.dtype}".encode())
            raw: Any = mx.contiguous(leaf).view(mx.uint8) if leaf.size else b""
            digest.update(memoryview(raw))
            total += leaf.nbytes
        elif leaf is None or isinstance(leaf, (bool, int, float, str)):
            digest.update(repr(leaf).encode())
        else:
            return None
    return digest.digest() if total >= _SMALL else None


def _copied(value: Any) -> Any:
    """Return the same arrays as objects of their own: a family may write into what its tower gave."""
    return tree_map(lambda leaf: mx.array(leaf) if isinstance(leaf, mx.array) else leaf, value)
