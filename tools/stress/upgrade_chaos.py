"""Kill the upgrade of a data directory of the first releases at random moments; see ``host_chaos``."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import time
from multiprocessing.connection import Connection
from pathlib import Path

from host_api.app.data.database import Directory
from host_api.app.data.migrations import m0001_first
from host_api.app.documents.vectors import Vectors

TURNS = 4000
CHUNKS = 500
# Processes of a server that has imported everything: an import takes many times as long as an upgrade.
os.environ.setdefault("PYTHONWARNINGS", "ignore::RuntimeWarning")  # LanceDB warns of forks; it is only imported before
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["lancedb", "pyarrow", "host_api.app.data.database", "host_api.app.documents.vectors"])


def _upgrade(data: Path, said: Connection) -> None:
    """Open a data directory as a service does at its start, and its vectors as the first search does."""
    said.send("begin")
    directory = Directory(data).open()
    directory.database().close()
    Vectors(data / "vectors").with_words("bread", 3)
    said.send("done")


def first_release(folder: Path) -> None:
    """Make a data directory as the first releases left it, with a long chat and vectors."""
    import lancedb

    folder.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(folder / "host.sqlite3")) as db, db:
        m0001_first.up(db)
        db.execute("INSERT INTO chatsession VALUES ('s1', 'Bread', 1.0, 2.0)")
        for n in range(TURNS):
            parts = json.dumps([{"type": "text", "text": f"turn {n} " * 20}])
            role = "assistant" if n % 2 else "user"
            db.execute("INSERT INTO chatmessage VALUES ('s1', ?, ?, ?, ?)", (n, f"m{n}", role, parts))
    table = [
        {
            "key": f"{'a' * 32}:{n}",
            "job": "a" * 32,
            "unit": str(n),
            "text": f"bread {n}",
            "parent": 0,
            "vector": [0.1] * 8,
        }
        for n in range(CHUNKS)
    ]
    lancedb.connect(folder / "vectors").create_table("chunks_0123456789ab_8", table)


def upgrades(folder: Path, kills: int, seed: int) -> tuple[str, list[str]]:
    """Kill ``kills`` upgrades; return what was done and what is wrong."""
    rng = random.Random(seed)
    first_release(folder / "first")
    whole = 1.0
    wrong: list[str] = []
    amid = done = 0
    while done < kills:
        data = folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(folder / "first", data)
        finished = False
        while not finished:
            began, finished = _open(data, rng.uniform(0, 1.2 * whole) if done else None)
            whole = began if not done else whole
            done += 1
            amid += not finished
            if rng.random() < 0.3 and not finished:
                done += 1
                finished = _open(data, None)[1]
        wrong += _look(data)
    return f"{done} upgrades begun, {amid} killed amid, an undisturbed one takes {whole:.2f} s", wrong


def _open(data: Path, kill_after: float | None) -> tuple[float, bool]:
    mine, its = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_upgrade, args=(data, its))
    process.start()
    its.close()
    mine.recv()
    begun = time.monotonic()
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    finished = False
    with contextlib.suppress(EOFError):
        finished = mine.recv() == "done"
    process.join(60)
    return time.monotonic() - begun, finished


def _look(data: Path) -> list[str]:
    import lancedb

    wrong = []
    with contextlib.closing(sqlite3.connect(data / "host.sqlite3")) as db:
        names = [r[0] for r in db.execute("SELECT id FROM chatturn ORDER BY position")]
        if names != [f"m{n}" for n in range(TURNS)]:
            wrong.append(f"{len(names)} turns are there after an upgrade, should be {TURNS}")
    store = lancedb.connect(data / "vectors")
    tables = list(store.list_tables().tables)
    rows = sum(store.open_table(name).count_rows() for name in tables)
    if rows != CHUNKS or any(name.startswith("chunks_") for name in tables):
        wrong.append(f"{rows} chunks are there after an upgrade, should be {CHUNKS}: {tables}")
    if damaged := list(data.glob("*.damaged*")):
        wrong.append(f"set aside: {damaged}")
    return wrong
