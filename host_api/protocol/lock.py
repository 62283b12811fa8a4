"""flock(2) on files that are never unlinked. The kernel drops a lock when its last holder's process is gone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import weakref
from pathlib import Path

from host_api.protocol.state_dir import StateDirError, explain, open_beneath

_live: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """One open lock file. Not thread-safe; a forked child's copy is closed, so only this process holds it."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open ``path``, creating it (0600) unless ``create`` is off. Raises StateDirError or FileNotFoundError."""
        self.path = path
        self._fd = -1
        try:
            # A lock needs no writing; without O_CREAT a look leaves no trace.
            self._fd = open_beneath(path, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY)
        except FileNotFoundError:
            if create:
                raise explain(path, FileNotFoundError(errno.ENOENT, "")) from None
            raise
        except OSError as exc:
            raise explain(path, exc) from exc
        _live.add(self)

    def try_exclusive(self) -> bool:
        """Take it exclusively, or return False. A shared hold is given up either way. Raises StateDirError."""
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        """Take it shared, or return False. Raises StateDirError."""
        return self._try(fcntl.LOCK_SH)

    def _try(self, how: int) -> bool:
        try:
            fcntl.flock(self._fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
                raise StateDirError(
                    f"state directory: {self.path}: its file system has no file locks (flock); "
                    "choose a local folder with --state-dir"
                ) from exc
            raise explain(self.path, exc) from exc
        return True

    def unlock(self) -> None:
        """Let go, keeping the file open."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def touch(self) -> None:
        """Set the file's modification time to now; how a short visit of a host is noticed."""
        with contextlib.suppress(OSError):
            os.utime(self._fd)

    def mtime_ns(self) -> int:
        """The file's modification time, nanoseconds."""
        return os.fstat(self._fd).st_mtime_ns

    def in_place(self) -> bool:
        """Whether the path still names this very file; False after someone removed the state directory."""
        try:
            there, here = self.path.lstat(), os.fstat(self._fd)
        except OSError:
            return False
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)

    def close(self) -> None:
        """Let go and close; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        self.close()


def held(path: Path) -> bool:
    """Whether someone holds ``path`` exclusively; a file that isn't there is held by nobody. Raises StateDirError.

    The test takes it shared for a moment, and creates nothing.
    """
    try:
        lock = FileLock(path, create=False)
    except FileNotFoundError:
        return False
    try:
        return not lock.try_shared()
    finally:
        lock.close()


def _after_fork() -> None:
    for lock in list(_live):
        lock.close()


os.register_at_fork(after_in_child=_after_fork)
