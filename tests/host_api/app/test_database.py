"""The database over releases, crashes and damage; and the data directory's lock."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import SQLModel, create_engine, text

from host_api.app.data import database, migrations
from host_api.app.data.chats import Sessions
from host_api.app.data.database import DataError, Directory
from host_api.app.data.files import Files
from host_api.app.data.jobs import Jobs
from host_api.app.data.migrations import NEWEST, m0001_first
from host_api.app.data.tables import Setting

FILE = "host.sqlite3"


def opened(folder: Path) -> tuple[Directory, database.Database]:
    directory = Directory(folder).open()
    return directory, directory.database()


@contextlib.contextmanager
def fresh(folder: Path) -> Any:
    directory, db = opened(folder)
    try:
        yield directory, db
    finally:
        db.close()
        directory.close()


def first_release(folder: Path) -> None:
    """A database as the first releases left it, with two chats, a task half done and a provider."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / FILE)) as db, db:
        m0001_first.up(db)
        db.execute("INSERT INTO provider VALUES ('p1', 'Mine', 'openai', 'http://127.0.0.1:9/v1', 0, 1.0)")
        db.execute("INSERT INTO chatsession VALUES ('s1', 'Bread', 1.0, 2.0), ('s2', 'Empty', 1.0, 3.0)")
        said = [
            ("m1", "user", [{"type": "text", "text": "Hello"}]),
            ("m2", "assistant", [{"type": "text", "text": "Hi", "state": "done"}]),
            ("", "user", [{"type": "text", "text": "一"}]),
            ("m2", "assistant", [{"type": "text", "text": "二"}]),
        ]
        for position, (name, role, parts) in enumerate(said):
            db.execute("INSERT INTO chatmessage VALUES ('s1', ?, ?, ?, ?)", (position, name, role, json.dumps(parts)))
        params = json.dumps({"embedding": "builtin/minilm"})
        for job, state in (("j1", "running"), ("j2", "done"), ("j3", "failed")):
            values = (job, "index", "0" * 64, "a.pdf", params, state, 1, 2, 4, "", None, "null", 1.0, 1.0)
            db.execute(f"INSERT INTO job VALUES ({', '.join('?' * len(values))})", values)
        db.execute("INSERT INTO jobunit VALUES ('j1', '1', '{\"children\": 3}')")


def schema(path: Path) -> dict[str, Any]:
    """Tables, columns, keys and indexes, however they were written down."""
    found: dict[str, Any] = {}
    with contextlib.closing(sqlite3.connect(path)) as db:
        names = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in sorted(names):
            columns = {r[1]: (r[2], r[3], r[5]) for r in db.execute(f"PRAGMA table_info({name})")}
            keys = sorted(r[2:7] for r in db.execute(f"PRAGMA foreign_key_list({name})"))
            indexes = sorted(
                (row[2], tuple(r[2] for r in db.execute(f"PRAGMA index_info({row[1]})")))
                for row in db.execute(f"PRAGMA index_list({name})").fetchall()
            )
            found[name] = (columns, keys, indexes)
    return found


def version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_all_steps_together_make_the_tables(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'tables.sqlite3'}")
    SQLModel.metadata.create_all(engine)
    engine.dispose()
    with fresh(tmp_path / "data"):
        pass
    assert schema(tmp_path / "data" / FILE) == schema(tmp_path / "tables.sqlite3")
    assert version(tmp_path / "data" / FILE) == NEWEST


def test_a_database_of_the_first_releases_keeps_everything(tmp_path: Path) -> None:
    first_release(tmp_path)
    with fresh(tmp_path) as (directory, db):
        assert directory.notes == [f"the database was brought from schema 1 to {NEWEST}"]
        sessions = Sessions(db, Files(tmp_path / "pictures"))
        row, branch = sessions.get("s1")
        assert row.title == "Bread"
        assert [(t.id, t.role, t.parts[0]["text"]) for t in branch.turns] == [
            ("m1", "user", "Hello"),
            ("m2", "assistant", "Hi"),
            ("turn-2", "user", "一"),
            ("turn-3", "assistant", "二"),
        ]
        assert sessions.get("s2")[1].turns == []
        jobs = Jobs(db, Files(tmp_path / "files"))
        assert {j.id: j.state for j in jobs.all()} == {"j1": "running", "j2": "done", "j3": "failed"}
        assert jobs.units("j1", "builtin/minilm") == {"1": {"children": 3}}
        assert jobs.get("j1").live_key is not None
        assert jobs.get("j2").live_key is None, "a second live one of the same content"
    (copy,) = tmp_path.glob(f"{FILE}.v1-*.copy")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect(copy)) as old:
        assert old.execute("SELECT count(*) FROM chatmessage").fetchone() == (4,)
    with fresh(tmp_path) as (directory, _):
        assert directory.notes == []


def test_a_step_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_release(tmp_path)
    before = schema(tmp_path / FILE)

    def broken(db: sqlite3.Connection) -> None:
        db.execute("DROP TABLE chatturn")
        raise RuntimeError("amid the step")

    monkeypatch.setattr(database, "STEPS", (*migrations.STEPS, broken))
    monkeypatch.setattr(database, "NEWEST", NEWEST + 1)
    with pytest.raises(RuntimeError, match="amid the step"):
        Directory(tmp_path).open()
    assert schema(tmp_path / FILE) == before
    monkeypatch.undo()
    with fresh(tmp_path) as (_, db):
        assert len(Sessions(db, Files(tmp_path / "pictures")).get("s1")[1].turns) == 4


def test_a_newer_database_is_refused_in_words_and_left_alone(tmp_path: Path) -> None:
    with fresh(tmp_path):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute(f"PRAGMA user_version = {NEWEST + 7}")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(DataError, match="newer release"):
        Directory(tmp_path).open()
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("damage", ["garbage", "torn page", "cut"])
def test_a_damaged_database_is_set_aside_and_said(damage: str, tmp_path: Path) -> None:
    with fresh(tmp_path) as (_, db):
        for i in range(300):
            with db.write() as session:
                session.add(Setting(key=f"k{i}", value="x" * 300))
    content = bytearray((tmp_path / FILE).read_bytes())
    if damage == "garbage":
        content = bytearray(b"this is no database " * 500)
    elif damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[8192:20000] = b"\xff" * (20000 - 8192)
    for extra in tmp_path.glob(f"{FILE}-*"):
        extra.unlink()
    (tmp_path / FILE).write_bytes(content)
    with fresh(tmp_path) as (directory, db):
        assert "set aside" in directory.notes[0]
        with db.read() as session:
            assert session.get(Setting, "k1") is None
    (aside,) = [p for p in tmp_path.glob(f"{FILE}.damaged-*") if not p.name.endswith(("-wal", "-shm"))]
    assert aside.read_bytes() == bytes(content)


def test_a_second_service_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from host_api.app.data.database import Directory\n"
        "held = Directory(Path(sys.argv[1])).open()\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(DataError, match="in use by another host service"):
        Directory(tmp_path).open()
    other.kill()
    other.wait(10)
    other.stdout.close()
    with fresh(tmp_path):
        pass


def test_threads_that_read_then_write_never_meet_as_locked(tmp_path: Path) -> None:
    with fresh(tmp_path) as (_, db):
        with db.write() as session:
            session.add(Setting(key="n", value="0"))
        failures: list[BaseException] = []

        def add() -> None:
            try:
                for _ in range(25):
                    with db.write() as session:
                        row = session.get_one(Setting, "n")
                        row.value = str(int(row.value) + 1)
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=add) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        with db.read() as session:
            assert session.get_one(Setting, "n").value == "200"
            assert session.exec(text("PRAGMA journal_mode")).one()[0] == "wal"


def test_an_upgrade_killed_at_any_moment_begins_anew(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from host_api.app.data.database import Directory\n"
        "print('begin', flush=True)\n"
        "Directory(Path(sys.argv[1])).open()\n"
        "print('done', flush=True)\n"
    )
    for number in range(12):
        folder = tmp_path / str(number)
        first_release(folder)
        process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.002 * number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
        with fresh(folder) as (directory, db):
            assert not any("damaged" in note for note in directory.notes)
            assert len(Sessions(db, Files(folder / "pictures")).get("s1")[1].turns) == 4


def test_everything_is_its_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / "made-by-hand"
    folder.mkdir(mode=0o755)
    with fresh(folder) as (_, db), db.write() as session:
        session.add(Setting(key="a", value="b"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(p.stat().st_mode) & 0o077 == 0 for p in folder.iterdir() if p.suffix != ".lock")


def test_files_are_kept_once_whole_and_mended(tmp_path: Path) -> None:
    files = Files(tmp_path)
    digest = files.put(b"content")
    assert files.put(b"content") == digest
    (tmp_path / digest).write_bytes(b"con")
    files.put(b"content")
    assert files.get(digest) == b"content"
    for wrong in ("../../etc/passwd", "x", digest.upper(), ""):
        with pytest.raises(FileNotFoundError):
            files.get(wrong)
    files.drop(digest)
    assert not any(tmp_path.iterdir())
