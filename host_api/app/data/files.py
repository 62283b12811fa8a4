"""Files kept once, by their content: what was uploaded for tasks, and the pictures of conversations."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from pathlib import Path

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Files:
    """A folder of files named by the SHA-256 of what they hold. Blocking; call from a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, content: bytes) -> str:
        """Keep ``content`` and return its digest; it is on the disk, whole, when this returns. Raises OSError."""
        digest = hashlib.sha256(content).hexdigest()
        target = self._folder / digest
        # A file of another size is what a full disk or a crash of the machine left: it is written anew.
        with contextlib.suppress(FileNotFoundError):
            if target.stat().st_size == len(content):
                return digest
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = target.with_name(f"{digest}.{uuid.uuid4().hex}.new")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:
                sink.write(content)
                sink.flush()
                os.fsync(sink.fileno())
            fresh.replace(target)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        return digest

    def get(self, digest: str) -> bytes:
        """Return what was kept. Raises OSError, FileNotFoundError too for what is no digest."""
        if not _DIGEST.fullmatch(digest):
            raise FileNotFoundError(digest)
        return (self._folder / digest).read_bytes()

    def has(self, digest: str) -> bool:
        """Return whether a file is there."""
        return bool(_DIGEST.fullmatch(digest)) and (self._folder / digest).is_file()

    def sweep(self, used: set[str]) -> int:
        """Delete every file that is not of ``used``; return how many. For a start, before anybody adds one.

        A file is kept before the row that needs it, so a process that is killed in between leaves it to nobody.
        """
        left = [p for p in self._folder.iterdir() if p.name not in used] if self._folder.is_dir() else []
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def drop(self, digest: str) -> None:
        """Delete a file, if it is there."""
        if _DIGEST.fullmatch(digest):
            (self._folder / digest).unlink(missing_ok=True)
