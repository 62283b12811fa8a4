"""Model folders that hosts lend to the sidecar, each for as long as it is attached.

Which models there are must not depend on who came first, so a host's folders are no part of the command line that
starts the sidecar. Each host that has some writes them into a file of its own in ``folders/`` of the state directory,
and holds that file's lock; the sidecar reads the files whose lock is held each time it looks for a model. As with
``hosts.lock`` the kernel drops the lock with the host, however that ends.

Unlike the lock files these are unlinked, by their host when it lets go and by the sidecar when it finds one that nobody
holds. That is safe because no name is used twice, and because a host looks whether its file is still in place after it
took the lock: a sidecar that came between the two makes it begin again.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host_api.protocol.lock import FileLock
from host_api.protocol.state_dir import StateDirError, explain, make_folder, open_beneath, read_bytes

NAME = "folders"


@dataclass(frozen=True, kw_only=True)
class Folders:
    """What a host lends, absolute paths. Nothing in them is ever changed or deleted.

    ``model_dirs`` hold model folders; ``data_dirs`` are data directories of bundles (``models/starter`` and others).
    """

    model_dirs: tuple[Path, ...] = ()
    data_dirs: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to lend."""
        return bool(self.model_dirs or self.data_dirs)


class Lease:
    """One host's file and the lock on it. Not thread-safe."""

    def __init__(self, root: Path, folders: Folders) -> None:
        self._root = root
        self._folders = folders
        self._lock: FileLock | None = None

    def bring(self, *, wanted: bool) -> None:
        """Lend the folders, or take them back. Raises StateDirError."""
        if not wanted or not self._folders:
            self.close()
            return
        while self._lock is None or not self._lock.in_place():
            self.close()
            self._lock = self._write()

    def _write(self) -> FileLock | None:
        place = self._root / NAME
        path = place / f"{os.getpid()}-{os.urandom(8).hex()}.json"
        document: dict[str, Any] = {"schema": 1, "pid": os.getpid()}
        document |= {name: [str(p) for p in getattr(self._folders, name)] for name in ("model_dirs", "data_dirs")}
        try:
            make_folder(place)
        except OSError as exc:
            raise explain(place, exc) from exc
        lock = FileLock(path)
        try:
            if not lock.try_exclusive():
                lock.close()
                return None
            with os.fdopen(open_beneath(path, os.O_WRONLY), "wb") as file:
                file.write(json.dumps(document).encode())
        except FileNotFoundError:
            return lock  # the sidecar swept it away: it isn't in place, and is written again
        except OSError as exc:
            _unlink(path)
            lock.close()
            raise explain(path, exc) from exc
        return lock

    def close(self) -> None:
        """Take the folders back; idempotent. In a forked child, where the lock is closed already, nothing happens."""
        lock, self._lock = self._lock, None
        if lock is not None:
            if lock.in_place():
                _unlink(lock.path)
            lock.close()


def lent(root: Path) -> Folders:
    """Return what all hosts lend now, in the order of the paths, and sweep up what dead ones left."""
    model_dirs: set[Path] = set()
    data_dirs: set[Path] = set()
    for path in sorted((root / NAME).glob("*.json")):
        with contextlib.suppress(FileNotFoundError, StateDirError):
            lock = FileLock(path, create=False)
            try:
                if lock.try_exclusive():  # its host is gone
                    _unlink(path)
                    continue
            finally:
                lock.close()
            found = parse(read_bytes(path))
            model_dirs.update(found.model_dirs)
            data_dirs.update(found.data_dirs)
    return Folders(model_dirs=tuple(sorted(model_dirs)), data_dirs=tuple(sorted(data_dirs)))


def parse(data: bytes | None) -> Folders:
    """Return the folders in a file; none where it can't be understood. Relative paths are left out."""
    try:
        document: Any = json.loads(data or b"{}")
        if not isinstance(document, dict) or document.get("schema") != 1:
            return Folders()
        return Folders(model_dirs=_paths(document.get("model_dirs")), data_dirs=_paths(document.get("data_dirs")))
    except (ValueError, RecursionError):
        return Folders()


def _paths(value: Any) -> tuple[Path, ...]:
    rows = value if isinstance(value, list) else []
    return tuple(Path(one) for one in rows if isinstance(one, str) and one.startswith("/") and "\0" not in one)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
