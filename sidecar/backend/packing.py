"""Arrays as bytes and back, bit for bit: what a file of kept caches or picture features holds inside."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

_LENGTH = 8  # bytes that give the length of the head

DTYPES = {
    str(d).removeprefix("mlx.core."): d
    for d in (
        mx.float32,
        mx.float16,
        mx.bfloat16,
        mx.uint8,
        mx.uint16,
        mx.uint32,
        mx.int8,
        mx.int16,
        mx.int32,
        mx.int64,
    )
}


def pack(tree: Any) -> bytes | None:
    """Return arrays in lists, tuples and dicts (keys are texts) as bytes; None where something else is in there."""
    arrays: list[mx.array] = []
    try:
        head = json.dumps(_described(tree, arrays)).encode()
    except TypeError:
        return None
    mx.eval(arrays)
    parts: list[Any] = [len(head).to_bytes(_LENGTH, "little"), head]
    for array in arrays:
        if array.size:
            raw: Any = mx.contiguous(array).reshape(-1).view(mx.uint8)
            parts.append(memoryview(raw))
    return b"".join(parts)


Leaf = Callable[[np.ndarray, mx.Dtype, list[int]], Any]


def _own(raw: np.ndarray, dtype: mx.Dtype, shape: list[int]) -> mx.array:
    return mx.array(raw).view(dtype).reshape(shape) if raw.size else mx.zeros(shape, dtype)


def raw_rows(raw: np.ndarray, dtype: mx.Dtype, shape: list[int]) -> tuple[mx.Dtype, np.ndarray]:
    """Return an array's type and its bytes, of which the last dimension has so many for each value: no copy."""
    return dtype, raw.reshape(*shape[:-1], shape[-1] * dtype.size)


def unpack(data: bytes, leaf: Leaf = _own) -> Any:
    """Return what was packed, as arrays of MLX's own, or as ``leaf`` makes of bytes, type and shape.

    Raises ValueError for anything else.
    """
    try:
        start = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
        reader = _Reader(data, start, leaf)
        tree = reader.build(json.loads(data[_LENGTH:start]))
    except (KeyError, TypeError, IndexError) as exc:
        raise ValueError(f"no packed arrays ({exc!r})") from exc
    if reader.at != len(data):
        raise ValueError("bytes are left over")
    return tree


def _described(tree: Any, arrays: list[mx.array]) -> Any:
    if tree is None:
        return None
    if isinstance(tree, mx.array):
        arrays.append(tree)
        name = str(tree.dtype).removeprefix("mlx.core.")
        if name not in DTYPES:
            raise TypeError(name)
        return ["a", name, list(tree.shape)]
    if type(tree) in (list, tuple):
        return ["l" if type(tree) is list else "t", [_described(one, arrays) for one in tree]]
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return ["d", {key: _described(one, arrays) for key, one in tree.items()}]
    raise TypeError(type(tree).__name__)


class _Reader:
    def __init__(self, data: bytes, at: int, leaf: Leaf) -> None:
        self._data = data
        self._leaf = leaf
        self.at = at

    def build(self, told: Any) -> Any:
        if told is None:
            return None
        if told[0] == "a":
            return self._array(DTYPES[told[1]], told[2])
        if told[0] == "d":
            return {key: self.build(one) for key, one in told[1].items()}
        parts = [self.build(one) for one in told[1]]
        return parts if told[0] == "l" else tuple(parts)

    def _array(self, dtype: mx.Dtype, shape: list[int]) -> Any:
        size = math.prod(shape) * dtype.size
        raw = np.frombuffer(self._data, np.uint8, count=size, offset=self.at) if size else np.empty(0, np.uint8)
        self.at += size
        return self._leaf(raw, dtype, shape)
