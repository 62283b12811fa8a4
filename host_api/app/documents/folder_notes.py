"""What is known of watched folders, in an SQLite file of its own. Blocking; call from a thread.

It can be lost: then every file is read once more, and known content is found to be known.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

_TABLES = """
CREATE TABLE IF NOT EXISTS folder (id TEXT PRIMARY KEY, path TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS file (
    folder TEXT NOT NULL REFERENCES folder(id) ON DELETE CASCADE, name TEXT NOT NULL,
    size INTEGER NOT NULL, changed INTEGER NOT NULL, digest TEXT NOT NULL, job TEXT, error TEXT,
    PRIMARY KEY (folder, name)
);
CREATE INDEX IF NOT EXISTS file_job ON file (job);
"""


@dataclass(frozen=True)
class Folder:
    """A watched folder."""

    id: str
    path: str


@dataclass(frozen=True)
class KnownFile:
    """A file of a folder: its name in it, size, time of change (ns), SHA-256, and its job or why it has none."""

    name: str
    size: int
    changed: int
    digest: str
    job: str | None
    error: str | None


class FolderNotes:
    """The notes in ``path``, made when new."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = sqlite3.connect(self._path, timeout=30)
        try:
            db.execute("PRAGMA foreign_keys=ON")
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_TABLES)
            with db:
                yield db
        finally:
            db.close()

    def folders(self) -> list[Folder]:
        """Return the folders, in the order of their paths; none where nothing was ever noted."""
        if not self._path.exists():
            return []
        with self._open() as db:
            return [Folder(*row) for row in db.execute("SELECT id, path FROM folder ORDER BY path")]

    def add(self, path: str) -> Folder:
        """Note a folder."""
        folder = Folder(uuid.uuid4().hex, path)
        with self._open() as db:
            db.execute("INSERT INTO folder VALUES (?, ?)", (folder.id, _text(folder.path)))
        return folder

    def remove(self, folder_id: str) -> None:
        """Forget a folder and its files."""
        with self._open() as db:
            db.execute("DELETE FROM folder WHERE id = ?", (folder_id,))

    def files(self, folder_id: str) -> dict[str, KnownFile]:
        """Return a folder's files by their names in it."""
        with self._open() as db:
            rows = db.execute("SELECT name, size, changed, digest, job, error FROM file WHERE folder = ?", (folder_id,))
            return {_name(row[0]): KnownFile(_name(row[0]), *row[1:]) for row in rows}

    def summary(self, folder_id: str, most: int) -> tuple[int, dict[str, str]]:
        """Return how many files a folder has, and at most ``most`` of those that can't be read, with the reason."""
        with self._open() as db:
            (count,) = db.execute("SELECT count(*) FROM file WHERE folder = ?", (folder_id,)).fetchone()
            query = "SELECT name, error FROM file WHERE folder = ? AND error IS NOT NULL ORDER BY name LIMIT ?"
            return int(count), {_name(name): error for name, error in db.execute(query, (folder_id, most))}

    def note(self, folder_id: str, file: KnownFile) -> None:
        """Note a file, or what has changed of it."""
        values = (folder_id, _text(file.name), file.size, file.changed, file.digest, file.job, file.error)
        with self._open() as db:
            db.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def forget(self, folder_id: str, name: str) -> None:
        """Forget a file."""
        with self._open() as db:
            db.execute("DELETE FROM file WHERE folder = ? AND name = ?", (folder_id, _text(name)))

    def names(self, job: str) -> list[str]:
        """Return the file names, without folders, that stand for a job."""
        with self._open() as db:
            rows = db.execute("SELECT name FROM file WHERE job = ? ORDER BY name", (job,))
            return [PurePath(_name(row[0])).name for row in rows]


def _text(name: str) -> str | bytes:
    """Return a name as SQLite takes it: one that is no UTF-8 (Linux allows them) as bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape")
    return name


def _name(stored: str | bytes) -> str:
    return stored.decode("utf-8", "surrogateescape") if isinstance(stored, bytes) else stored
