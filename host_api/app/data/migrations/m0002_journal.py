"""Conversations become a journal of turns with parents, jobs get leases, finished pieces know their model."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time

STATEMENTS = (
    "ALTER TABLE chatsession ADD COLUMN head_id VARCHAR",
    """
    CREATE TABLE chatturn (
        session_id VARCHAR NOT NULL,
        id VARCHAR NOT NULL,
        parent_id VARCHAR,
        position INTEGER NOT NULL,
        role VARCHAR NOT NULL,
        state VARCHAR NOT NULL,
        parts JSON NOT NULL,
        created_at FLOAT NOT NULL,
        PRIMARY KEY (session_id, id),
        FOREIGN KEY(session_id) REFERENCES chatsession (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_chatturn_parent_id ON chatturn (parent_id)",
    """
    CREATE TABLE chatchunk (
        session_id VARCHAR NOT NULL,
        turn_id VARCHAR NOT NULL,
        position INTEGER NOT NULL,
        chunks JSON NOT NULL,
        PRIMARY KEY (session_id, turn_id, position),
        FOREIGN KEY(session_id) REFERENCES chatsession (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE chatfile (
        session_id VARCHAR NOT NULL,
        digest VARCHAR NOT NULL,
        PRIMARY KEY (session_id, digest),
        FOREIGN KEY(session_id) REFERENCES chatsession (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_chatfile_digest ON chatfile (digest)",
    "ALTER TABLE job ADD COLUMN owner VARCHAR",
    "ALTER TABLE job ADD COLUMN lease_until FLOAT NOT NULL DEFAULT 0",
    "ALTER TABLE job ADD COLUMN live_key VARCHAR",
    """
    CREATE TABLE jobunit_new (
        job_id VARCHAR NOT NULL,
        "key" VARCHAR NOT NULL,
        model VARCHAR NOT NULL,
        data JSON NOT NULL,
        PRIMARY KEY (job_id, "key", model),
        FOREIGN KEY(job_id) REFERENCES job (id) ON DELETE CASCADE
    )
    """,
)


def up(db: sqlite3.Connection) -> None:
    """Take the step; what is there already keeps its order and its identifiers."""
    for statement in STATEMENTS:
        db.execute(statement)
    _turns(db)
    _jobs(db)
    db.execute("CREATE UNIQUE INDEX ix_job_live_key ON job (live_key)")


def _turns(db: sqlite3.Connection) -> None:
    used: set[tuple[str, str]] = set()
    last: dict[str, str] = {}
    rows = db.execute("SELECT session_id, position, id, role, parts FROM chatmessage ORDER BY session_id, position")
    for session, position, given, role, parts in rows.fetchall():
        turn = given if given and (session, given) not in used else f"turn-{position}"
        used.add((session, turn))
        values = (session, turn, last.get(session), position, role, "done", parts, time.time())
        db.execute("INSERT INTO chatturn VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        last[session] = turn
    db.executemany("UPDATE chatsession SET head_id = ? WHERE id = ?", [(turn, s) for s, turn in last.items()])
    db.execute("DROP TABLE chatmessage")


def _jobs(db: sqlite3.Connection) -> None:
    taken: set[str] = set()
    rows = db.execute("SELECT id, kind, content_hash, params, state FROM job ORDER BY created_at").fetchall()
    for job, kind, digest, params, state in rows:
        models = json.loads(params)
        key = hashlib.sha256(json.dumps([kind, digest, models], sort_keys=True).encode()).hexdigest()
        if state in ("queued", "running", "done") and key not in taken:
            taken.add(key)
            db.execute("UPDATE job SET live_key = ? WHERE id = ?", (key, job))
        made_with = models.get("embedding", "") if kind == "index" else ""
        statement = 'INSERT INTO jobunit_new SELECT job_id, "key", ?, data FROM jobunit WHERE job_id = ?'
        db.execute(statement, (made_with, job))
    db.execute("DROP TABLE jobunit")
    db.execute("ALTER TABLE jobunit_new RENAME TO jobunit")
