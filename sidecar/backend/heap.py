"""The C library's memory on Linux, from which MLX's CPU backend takes every array.

It keeps what is freed, and MLX's numbers say nothing of that. Large arrays that it gives back at once have their pages
faulted in anew at every step (joining eight rows took 290 ms in place of 11), so it is told to keep up to 32 MB large
ones. But a joined cache is larger than the holes that the old ones leave: eight rows that took 15 MB more by MLX's
count took 90 of the group's, and its kernel killed the engine. So where memory is ``short`` caches that are made anew
(``exact``) are taken from the system and go back to it whole, and what is kept otherwise is given back (``trim``).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE, _CACHES = 32 << 20, 128 << 10

_AT_ONCE, _AT_ONCE_SHORT = 32 << 20, 8 << 20

_short = False


def keep_freed(size: int) -> None:
    """Let the C library keep ``size`` bytes of freed memory, as MLX's own cache does on Metal."""
    _set(_M_MMAP_THRESHOLD, _LARGE)
    _set(_M_TRIM_THRESHOLD, size)


def mind(*, short: bool) -> None:
    """Note whether memory is short."""
    global _short
    _short = short


def is_short() -> bool:
    """Return whether memory was short when it was noted last."""
    return _short


def at_once() -> int:
    """Return the bytes of caches that are copied at once: the old and the new ones are all in memory meanwhile."""
    return _AT_ONCE_SHORT if _short else _AT_ONCE


def trim() -> None:
    """Return what was freed to the system: 3 ms for 100 MB."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def trim_if_short() -> None:
    """Return what was freed to the system where memory is short."""
    if _short:
        trim()


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Take arrays of a cache's size from the system while the block evaluates them, where memory is short."""
    if not _short or sys.platform != "linux":
        yield
        return
    _set(_M_MMAP_THRESHOLD, _CACHES)
    try:
        yield
    finally:
        _set(_M_MMAP_THRESHOLD, _LARGE)


def _set(what: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(what, value)
