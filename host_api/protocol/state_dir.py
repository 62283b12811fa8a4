"""The state directory: where it is, its files, reading and replacing the record."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from host_api.protocol.record import MAX_RECORD

APP = "mlx-sidecar"
TEMP_PREFIX = ".sidecar.pid."


class StateDirError(Exception):
    """The state directory can't be used; the message says why and what to do. Sidecar exit code 78."""


def default_state_dir() -> Path:
    """Return the state directory of this user and platform; nothing is created. Raises StateDirError."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if sys.platform != "darwin" and base.startswith("/"):
        return Path(base) / APP
    try:
        home = Path.home()
    except RuntimeError as exc:
        raise StateDirError("this user has no home folder; set HOME, or choose a folder with --state-dir") from exc
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / APP / "state"
    return home / ".local" / "state" / APP


def absolute(path: Path) -> Path:
    """Return ``path`` as the caller means it, whatever folder the sidecar works in. Raises StateDirError."""
    try:
        return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow links
    except (RuntimeError, OSError) as exc:
        raise StateDirError(f"{path}: there is no such user or working folder; give a whole path") from exc


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
        errno.ELOOP: "a link or a special file is in the way; remove it",
        errno.EISDIR: "a folder is in the way; remove it",
        errno.ENXIO: "a link or a special file is in the way; remove it",
        errno.ENAMETOOLONG: "the path is too long; choose another folder with --state-dir",
        errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
        errno.ENFILE: "the machine has too many open files; close some programs",
        errno.ENOENT: "the folder is gone; it is looked for again",
    }
    return StateDirError(f"state directory: {path}: {hints.get(exc.errno or 0, exc.strerror or str(exc))}")


def prepare(root: Path) -> Files:
    """Create ``root`` with mode 0700 where it is missing; one that exists is checked, never changed.

    Raises StateDirError: a link, another user's, one that others may write to, or below a folder in which others may
    rename it.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        if not (isinstance(exc, FileExistsError) and root.is_symlink()):
            raise explain(root, exc) from exc
    check(root)
    return Files(root)


def check(root: Path) -> None:
    """Raise StateDirError when ``root`` exists and can't be trusted; changes nothing."""
    try:
        info = root.lstat()
        above = root.parent.stat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise explain(root, exc) from exc
    if stat.S_ISLNK(info.st_mode):
        raise StateDirError(f"state directory: {root}: is a link; give the folder itself with --state-dir")
    if not stat.S_ISDIR(info.st_mode):
        raise StateDirError(f"state directory: {root}: a file is in the way; choose another folder with --state-dir")
    if info.st_uid != os.geteuid():
        raise StateDirError(f"state directory: {root}: belongs to another user; choose one with --state-dir")
    if info.st_mode & 0o022:
        raise StateDirError(
            f"state directory: {root}: others may write to it; run chmod 700 on it, or choose one with --state-dir"
        )
    if above.st_mode & 0o002 and not above.st_mode & stat.S_ISVTX:
        raise StateDirError(
            f"state directory: {root}: others may rename it, as its parent folder is open to all; "
            "choose another with --state-dir"
        )


def place_of(root: Path) -> tuple[int, int] | None:
    """Return what tells this directory from one made later under its name; None when there is none."""
    try:
        info = root.lstat()
    except OSError:
        return None
    return info.st_dev, info.st_ino


def open_beneath(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a regular file of ours by its last component alone: no link is followed, no FIFO or device waited for.

    Raises OSError; its message says what stands there.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_nlink > 1:
        os.close(fd)
        raise OSError(errno.ELOOP, "not a plain file of this user", str(path))
    return fd


def make_folder(path: Path) -> None:
    """Make ``path`` (0700) below a trusted folder, or check that it is a folder of ours and no link. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise OSError(errno.ELOOP, "not a folder of this user", str(path))


def read_bytes(path: Path) -> bytes | None:
    """A small file's bytes (one more than a record may have, at most), or None when it isn't there.

    What can't be read counts as there and empty: fail closed. Raises StateDirError only where this process itself is
    short of descriptors or memory, which says nothing about the file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise explain(path, exc) from exc
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
        temp.unlink(missing_ok=True)  # one that a killed process left, or a FIFO that would be waited for
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
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
