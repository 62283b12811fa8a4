"""The tables, in one SQLite file in the data directory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, Engine, UniqueConstraint, event
from sqlmodel import Field, Session, SQLModel, create_engine, select

BUILTIN = "builtin"


class Provider(SQLModel, table=True):
    """Something that speaks OpenAI's API: the built-in sidecar or an endpoint the user named."""

    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    kind: str
    base_url: str | None = None
    has_key: bool = False
    created_at: float = Field(default_factory=time.time)


class Model(SQLModel, table=True):
    """A model at a provider. ``capabilities`` maps a name to True or False once confirmed or declared."""

    __table_args__ = (UniqueConstraint("provider_id", "name"),)
    id: int | None = Field(default=None, primary_key=True)
    provider_id: str = Field(foreign_key="provider.id", ondelete="CASCADE", index=True)
    name: str
    capabilities: dict[str, bool] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    present: bool = True


class Assignment(SQLModel, table=True):
    """The model a capability uses everywhere."""

    capability: str = Field(primary_key=True)
    model_id: int = Field(foreign_key="model.id", ondelete="CASCADE", index=True)


class Setting(SQLModel, table=True):
    """What the service remembers of itself."""

    key: str = Field(primary_key=True)
    value: str


class ChatSession(SQLModel, table=True):
    """A conversation. Times are Unix seconds."""

    id: str = Field(primary_key=True)
    title: str
    created_at: float = Field(default_factory=time.time)
    updated_at: float = Field(default_factory=time.time, index=True)


class ChatMessage(SQLModel, table=True):
    """One message of a conversation, its parts as the AI SDK's UI messages have them."""

    session_id: str = Field(primary_key=True, foreign_key="chatsession.id", ondelete="CASCADE")
    position: int = Field(primary_key=True)
    id: str
    role: str
    parts: list[Any] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))


class Job(SQLModel, table=True):
    """A task: what is to be done, how far it is, what came of it."""

    id: str = Field(primary_key=True)
    kind: str = Field(index=True)
    content_hash: str = Field(index=True)
    name: str
    params: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    state: str = Field(default="queued", index=True)
    attempts: int = 0
    done: int = 0
    total: int = 0
    note: str = ""
    error: str | None = None
    result: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    created_at: float = Field(default_factory=time.time, index=True)
    updated_at: float = Field(default_factory=time.time)


class JobUnit(SQLModel, table=True):
    """A finished piece of a task (a page, say), kept so that it is never done twice."""

    job_id: str = Field(primary_key=True, foreign_key="job.id", ondelete="CASCADE")
    key: str = Field(primary_key=True)
    data: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


def open_engine(path: Path) -> Engine:
    """The database at ``path``, made when new. Raises SQLAlchemyError or OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False, "timeout": 30})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for statement in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {statement}")
        cursor.close()

    SQLModel.metadata.create_all(engine)
    path.chmod(0o600)
    return engine


__all__ = [
    "BUILTIN",
    "Assignment",
    "ChatMessage",
    "ChatSession",
    "Job",
    "JobUnit",
    "Model",
    "Provider",
    "Session",
    "Setting",
    "open_engine",
    "select",
]
