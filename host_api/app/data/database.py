"""The database file: opened once, brought up to date, written by one thread at a time.

Theory of operation. One service has a data directory (``lock``, held for as long as it lives). At a start, before
anything listens:

1. A file that SQLite calls damaged is set aside under a name with the time, and an empty one begun: a service that
   starts and says so is worth more than one that doesn't start. Nothing is deleted.
2. A file of a newer release is refused in words.
3. A file of an older one is copied (``VACUUM INTO``, the last ``COPIES`` are kept), then every missing step of
   ``migrations`` runs in one transaction.

Afterwards readers read beside each other and beside the one writer (WAL). A write transaction begins with the write
lock (``BEGIN IMMEDIATE``) and with a lock of this process, so that two threads of it never meet as "database is
locked". A commit survives the death of the process at any moment.

A worked timeline of a release that adds two steps: 0 ms lock, 3 ms quick_check of 4 MB, 20 ms copy, 25 ms both steps,
25 ms ``user_version`` 4 is committed with them. Killed at 24 ms: the next start finds version 2 and begins anew.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, create_engine

from host_api.app.data.migrations import NEWEST, STEPS

BUSY = 5.0  # seconds to wait for a writer that is not this process: a backup, a person with sqlite3
COPIES = 3


class DataError(Exception):
    """The data directory can't be used; the message says what to do. Exit code 78."""


class Directory:
    """The data directory while a service has it. ``notes`` are for the person who started it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._lock = filelock.FileLock(path / "lock", mode=0o600)

    def open(self) -> Directory:
        """Take the directory and bring its database up to date. Raises DataError or OSError."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A directory somebody made by hand is as private as one made here.
        self.path.chmod(self.path.stat().st_mode & 0o700)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise DataError(
                f"{self.path} is in use by another host service; stop it, or choose another --data-dir"
            ) from None
        try:
            self._prepare(self.path / "host.sqlite3")
        except BaseException:
            self._lock.release()
            raise
        return self

    def close(self) -> None:
        """Let go of it."""
        self._lock.release()

    def database(self) -> Database:
        """Return the database, which is up to date."""
        return Database(self.path / "host.sqlite3")

    def _prepare(self, path: Path) -> None:
        if path.exists() and (damage := _damage(path)):
            aside = _set_aside(path)
            self.notes.append(
                f"the database is damaged ({damage}): it was set aside as {aside.name} and an empty one begun; "
                f"copies made before upgrades are beside it (*.copy)"
            )
        _private(path)
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            version = _version(db)
            if version > NEWEST:
                raise DataError(
                    f"{path} was written by a newer release (its schema is {version}, this release knows {NEWEST}); "
                    f"update mlx-sidecar, or choose another --data-dir"
                )
            if version == NEWEST:
                return
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self.notes.append(f"the database was brought from schema {version} to {NEWEST}")
                _copy(db, path, version)
            _upgrade(db, version)


def _private(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    path.chmod(0o600)


def _version(db: sqlite3.Connection) -> int:
    """Return the schema's number; 1 for a database of the first releases, which had none."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    first = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'chatmessage'").fetchone()
    return 1 if version == 0 and first else version


def _damage(path: Path) -> str | None:
    """Return what SQLite says is wrong with a file, or None. Raises OSError where it can't be read at all."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY)) as db:
            found = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as exc:
        if isinstance(exc, sqlite3.OperationalError):
            raise DataError(f"{path} can't be opened ({exc}); is it in use, or the disk full?") from exc
        return str(exc)
    return None if found == ["ok"] else found[0]


def _set_aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(path.with_name(f"{path.name}.damaged-{stamp}{suffix}"))
    return path.with_name(f"{path.name}.damaged-{stamp}")


def _copy(db: sqlite3.Connection, path: Path, version: int) -> None:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = path.with_name(f"{path.name}.v{version}-{stamp}.copy")
    target.unlink(missing_ok=True)
    try:
        db.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.OperationalError as exc:
        target.unlink(missing_ok=True)
        raise DataError(f"{path} can't be copied before its upgrade ({exc}); make room on the disk") from exc
    target.chmod(0o600)  # until then its folder keeps it private
    for old in sorted(path.parent.glob(f"{path.name}.v*.copy"), key=lambda p: p.stat().st_mtime)[:-COPIES]:
        old.unlink(missing_ok=True)


def _upgrade(db: sqlite3.Connection, version: int) -> None:
    # A step may drop a table that others refer to; what is left is checked at the end.
    db.execute("PRAGMA foreign_keys=OFF")
    db.execute("BEGIN IMMEDIATE")
    try:
        for number, step in enumerate(STEPS[version:], version + 1):
            step(db)
            db.execute(f"PRAGMA user_version = {number}")
        orphan = db.execute("PRAGMA foreign_key_check").fetchone()
        if orphan is not None:
            raise DataError(f"the upgrade left a row of {orphan[0]} without its {orphan[2]}; nothing was changed")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


class Database:
    """Sessions on the file. Blocking; call from a thread."""

    def __init__(self, path: Path) -> None:
        url = f"sqlite:///{path}"
        self._engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": BUSY}, pool_size=8)
        self._writer = self._engine.execution_options(immediate=True)
        self._one = threading.Lock()

        @event.listens_for(self._engine, "connect")
        def _connected(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # transactions begin where SQLAlchemy says so, below
            for statement in ("synchronous=NORMAL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {statement}")

        @event.listens_for(self._engine, "begin")
        def _begun(connection: Any) -> None:
            kind = "IMMEDIATE" if connection.get_execution_options().get("immediate") else "DEFERRED"
            connection.exec_driver_sql(f"BEGIN {kind}")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees the database as it is at its first query. Raises SQLAlchemyError."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed at the end of the block, all or none. Raises SQLAlchemyError.

        Whoever waits for other writers of this process waits as long as for those of others: a database that somebody
        holds gives every request its answer after ``BUSY`` seconds, not the tenth one after ten times as many.
        """
        if not self._one.acquire(timeout=BUSY):
            raise OperationalError(None, None, sqlite3.OperationalError("database is locked"))
        try:
            with Session(self._writer, expire_on_commit=False) as session:
                yield session
                session.commit()
        finally:
            self._one.release()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
