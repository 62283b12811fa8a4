"""A single-file build is two processes: a loader that unpacked the program into a folder, and this one.

The loader removes the folder when this process ends. If the loader is killed, this process notices and leaves;
the folder it can't remove is removed by the next start, which finds its lock free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

_LOCK = ".mlx-sidecar.lock"
_INTERVAL = 0.5  # seconds between looks at the loader
_held: list[int] = []


def unpacked() -> Path | None:
    """The folder a single-file build was unpacked into, or None."""
    folder = getattr(sys, "_MEIPASS", None)
    if not getattr(sys, "frozen", False) or folder is None or not Path(folder).name.startswith("_MEI"):
        return None
    return Path(folder)


def prepare() -> None:
    """Watch the loader, mark this folder as in use, remove folders nobody uses. Nothing in other builds."""
    folder = unpacked()
    if folder is None:
        return
    with contextlib.suppress(OSError):
        _held.append(_lock(folder))
    clean(folder.parent, mine=folder)
    threading.Thread(target=_watch, args=(os.getppid(),), name="loader", daemon=True).start()


def clean(parent: Path, *, mine: Path | None = None) -> list[Path]:
    """Remove the folders in ``parent`` that a single-file build left and nobody holds; those removed."""
    removed = []
    for folder in parent.glob("_MEI*"):
        if folder == mine or not (folder / _LOCK).is_file():
            continue
        try:
            descriptor = _lock(folder)
        except OSError:
            continue  # in use, or not ours
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
        removed.append(folder)
    return removed


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _watch(loader: int) -> None:
    while os.getppid() == loader:
        time.sleep(_INTERVAL)
    os.kill(os.getpid(), signal.SIGTERM)
