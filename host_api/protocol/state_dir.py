"""The state directory: where it is, its files, reading and replacing the record."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from host_api.protocol.record import MAX_RECORD

APP = "mlx-sidecar"
TEMP_PREFIX = ".sidecar.pid."


class StateDirError(Exception):
    """The state directory can't be used; the message says why and what to do. Sidecar exit code 78."""


def default_state_dir() -> Path:
    """The state directory of this user and platform; nothing is created."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / APP / "state"
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / APP


@dataclass(frozen=True)
class Files:
    """The names in a state directory."""

    root: Path

    @property
    def launch_lock(self) -> Path:
        """Held by the host that decides, until the sidecar is ready or has failed."""
        return self.root / "launch.lock"

    @property
    def sidecar_lock(self) -> Path:
        """Held by the sidecar for life."""
        return self.root / "sidecar.lock"

    @property
    def hosts_lock(self) -> Path:
        """Held shared by every host."""
        return self.root / "hosts.lock"

    @property
    def record(self) -> Path:
        """``sidecar.pid``."""
        return self.root / "sidecar.pid"

    @property
    def restarts(self) -> Path:
        """The back-off all hosts share."""
        return self.root / "restarts.json"


def explain(path: Path, exc: OSError) -> StateDirError:
    """An error about ``path`` that says what to do."""
    hints = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "the disk quota is used up; free some space",
        errno.EROFS: "the file system is read-only; choose another folder with --state-dir",
        errno.EACCES: "permission denied; choose a folder of your own with --state-dir",
        errno.EPERM: "permission denied; choose a folder of your own with --state-dir",
        errno.ENOTDIR: "a part of the path is a file; choose another folder with --state-dir",
        errno.EEXIST: "a file is in the way; choose another folder with --state-dir",
        errno.ELOOP: "it is a symbolic link; remove it",
        errno.ENAMETOOLONG: "the path is too long; choose another folder with --state-dir",
        errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    }
    return StateDirError(f"state directory: {path}: {hints.get(exc.errno or 0, exc.strerror or str(exc))}")


def prepare(root: Path) -> Files:
    """Create ``root`` with mode 0700 where it is missing. Raises StateDirError."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = root.stat()
        if info.st_uid != os.geteuid():
            raise StateDirError(f"state directory: {root}: belongs to another user; choose one with --state-dir")
        if info.st_mode & 0o077:
            root.chmod(0o700)
    except OSError as exc:
        raise explain(root, exc) from exc
    return Files(root)


def read_bytes(path: Path) -> bytes | None:
    """A small file's bytes (one more than a record may have, at most), or None when it isn't there.

    What can't be read counts as there and empty: fail closed.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        return b""
    try:
        with os.fdopen(fd, "rb") as file:
            return file.read(MAX_RECORD + 1) or b""
    except OSError:
        return b""


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all, mode 0600. Raises StateDirError."""
    temp = path.with_name(f"{TEMP_PREFIX}{os.getpid()}.{path.name}.tmp")
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.rmdir()
            temp.replace(path)
        except OSError:
            temp.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as exc:
        raise explain(path, exc) from exc


def remove(path: Path) -> None:
    """Remove the record or a leftover; nothing when it isn't there or can't go."""
    with contextlib.suppress(OSError):
        path.unlink()
