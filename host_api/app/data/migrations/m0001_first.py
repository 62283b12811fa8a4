"""The schema of the first releases, which had no number."""

from __future__ import annotations

import sqlite3

STATEMENTS = (
    """
    CREATE TABLE provider (
        id VARCHAR NOT NULL,
        name VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,
        base_url VARCHAR,
        has_key BOOLEAN NOT NULL,
        created_at FLOAT NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (name)
    )
    """,
    """
    CREATE TABLE setting (
        "key" VARCHAR NOT NULL,
        value VARCHAR NOT NULL,
        PRIMARY KEY ("key")
    )
    """,
    """
    CREATE TABLE chatsession (
        id VARCHAR NOT NULL,
        title VARCHAR NOT NULL,
        created_at FLOAT NOT NULL,
        updated_at FLOAT NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX ix_chatsession_updated_at ON chatsession (updated_at)",
    """
    CREATE TABLE job (
        id VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,
        content_hash VARCHAR NOT NULL,
        name VARCHAR NOT NULL,
        params JSON NOT NULL,
        state VARCHAR NOT NULL,
        attempts INTEGER NOT NULL,
        done INTEGER NOT NULL,
        total INTEGER NOT NULL,
        note VARCHAR NOT NULL,
        error VARCHAR,
        result JSON,
        created_at FLOAT NOT NULL,
        updated_at FLOAT NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX ix_job_created_at ON job (created_at)",
    "CREATE INDEX ix_job_kind ON job (kind)",
    "CREATE INDEX ix_job_state ON job (state)",
    "CREATE INDEX ix_job_content_hash ON job (content_hash)",
    """
    CREATE TABLE model (
        id INTEGER NOT NULL,
        provider_id VARCHAR NOT NULL,
        name VARCHAR NOT NULL,
        capabilities JSON NOT NULL,
        present BOOLEAN NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (provider_id, name),
        FOREIGN KEY(provider_id) REFERENCES provider (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_model_provider_id ON model (provider_id)",
    """
    CREATE TABLE chatmessage (
        session_id VARCHAR NOT NULL,
        position INTEGER NOT NULL,
        id VARCHAR NOT NULL,
        role VARCHAR NOT NULL,
        parts JSON NOT NULL,
        PRIMARY KEY (session_id, position),
        FOREIGN KEY(session_id) REFERENCES chatsession (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE jobunit (
        job_id VARCHAR NOT NULL,
        "key" VARCHAR NOT NULL,
        data JSON NOT NULL,
        PRIMARY KEY (job_id, "key"),
        FOREIGN KEY(job_id) REFERENCES job (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE assignment (
        capability VARCHAR NOT NULL,
        model_id INTEGER NOT NULL,
        PRIMARY KEY (capability),
        FOREIGN KEY(model_id) REFERENCES model (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_assignment_model_id ON assignment (model_id)",
)


def up(db: sqlite3.Connection) -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        db.execute(statement)
