"""Which build of the program runs: a fingerprint that an update changes and a copy does not.

The record names it. A host whose own program has another fingerprint, and that is the only host, replaces the sidecar:
an updater may have swapped the files under it. The sidecar itself watches the file and leaves when it is replaced.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

HEAD = 64 * 1024  # bytes read at the start of the file
TAIL = 1024 * 1024  # bytes at its end: PyInstaller appends its table of contents, with the sizes of all that is in it
APP_DIR_ENV = "MLX_SIDECAR_APP_DIR"  # tells the launcher of a Tauri bundle where the frozen folder lies


def program_of(command: tuple[str, ...], env: Mapping[str, str]) -> Path | None:
    """Return the file that ``command`` runs, links resolved; None for an interpreter with arguments of its own."""
    if len(command) != 1:
        return None
    import shutil  # only here, as below: they cost every host milliseconds

    found = shutil.which(command[0], path=env.get("PATH"))
    if found is None:
        return None
    behind = Path(env.get(APP_DIR_ENV, "")) / "mlx-sidecar"
    return (behind if APP_DIR_ENV in env and behind.is_file() else Path(found)).resolve()


def fingerprint(path: Path) -> str | None:
    """Return 32 hex digits of size, head and tail of a program; None when it can't be read."""
    try:
        info = path.stat()
        return _fingerprint(str(path), info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=8)
def _fingerprint(path: str, dev: int, ino: int, size: int, mtime_ns: int) -> str:
    import hashlib

    with Path(path).open("rb") as file:
        digest = hashlib.sha256(f"{size}:".encode())
        digest.update(file.read(HEAD))
        file.seek(max(0, size - TAIL))
        digest.update(file.read(TAIL))
    return digest.hexdigest()[:32]


class Executable:
    """The file of a running program, to notice that it was replaced or removed."""

    def __init__(self, path: Path) -> None:
        """Remember ``path`` as it is now; a file that can't be seen is never called replaced."""
        self.path = path
        self._first = self._identity()

    def _identity(self) -> tuple[int, int, int, int] | None:
        with contextlib.suppress(OSError):
            info = os.stat(self.path)  # noqa: PTH116 - called once a second
            if stat.S_ISREG(info.st_mode):
                return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns
        return None

    @property
    def replaced(self) -> bool:
        """Whether the path no longer names the file that was started."""
        return self._first is not None and self._identity() != self._first
