"""Kill the upgrade of a data directory of the first releases at random moments; see ``host_chaos``."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from host_api.app.data.migrations import m0001_first

TURNS = 4000
CHUNKS = 500
CODE = """
import sys
from pathlib import Path
import lancedb, pyarrow
from host_api.app.data.database import Directory
from host_api.app.documents.vectors import Vectors
print('begin', flush=True)
data = Path(sys.argv[1])
with_lock = Directory(data).open()
with_lock.database().close()
Vectors(data / 'vectors').with_words('bread', 3)
print('done', flush=True)
"""


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
    process = subprocess.Popen([sys.executable, "-c", CODE, str(data)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        begun = time.monotonic()
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        finished = process.stdout.readline() == "done\n"
    process.wait(30)
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
