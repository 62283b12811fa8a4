"""Importing what every model needs, in steps that the watchdog can tell from a hang.

MLX, mlx-vlm and transformers are three thousand modules. On a machine that is busy, or compiles them first, that takes
longer than one piece of work may; each module is a step of its own.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Steps:
    """Finds no module, and says that one is looked for by the thread that made it."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step
        self._thread = threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Leave it to the next finder."""
        if threading.get_ident() == self._thread:
            self._step()
        return None


@contextmanager
def stepwise(step: Callable[[], None]) -> Iterator[None]:
    """Call ``step`` before each module that this thread imports in the block."""
    steps = _Steps(step)
    sys.meta_path.insert(0, steps)
    try:
        yield
    finally:
        sys.meta_path.remove(steps)


def warm(step: Callable[[], None]) -> None:
    """Import what every model needs; ``step`` is called before each module."""
    gc.disable()  # while modules are imported there is nothing to collect
    try:
        with stepwise(step):
            from sidecar.backend import outlines

            outlines.read_once()
            import psutil

            import sidecar.backend.loader
            import sidecar.backend.selfcheck
            import sidecar.engine.runners

            _ = (psutil, sidecar.backend.selfcheck, sidecar.engine.runners)
            sidecar.backend.loader.settle()
    finally:
        gc.enable()
