"""The tables. A change of them is a new file in ``migrations/``; a test compares the two."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import JSON, Column, UniqueConstraint
from sqlmodel import Field, Session, SQLModel, select

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
    """A conversation. ``head_id`` is the last turn of the branch shown. Times are Unix seconds."""

    id: str = Field(primary_key=True)
    title: str
    head_id: str | None = None
    created_at: float = Field(default_factory=time.time)
    updated_at: float = Field(default_factory=time.time, index=True)


class ChatTurn(SQLModel, table=True):
    """One message of a conversation and the one it follows; its parts as the AI SDK's UI messages have them.

    ``state``: running, done, stopped, failed or interrupted. Turns are added and ended, never changed after that.
    """

    session_id: str = Field(primary_key=True, foreign_key="chatsession.id", ondelete="CASCADE")
    id: str = Field(primary_key=True)
    parent_id: str | None = Field(default=None, index=True)
    position: int
    role: str
    state: str = "done"
    parts: list[Any] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    created_at: float = Field(default_factory=time.time)


class ChatChunk(SQLModel, table=True):
    """A piece of an answer as it came, until the answer has ended."""

    session_id: str = Field(primary_key=True, foreign_key="chatsession.id", ondelete="CASCADE")
    turn_id: str = Field(primary_key=True)
    position: int = Field(primary_key=True)
    chunks: list[Any] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))


class ChatFile(SQLModel, table=True):
    """That a conversation uses a file, which is kept once by its content."""

    session_id: str = Field(primary_key=True, foreign_key="chatsession.id", ondelete="CASCADE")
    digest: str = Field(primary_key=True, index=True)


class Job(SQLModel, table=True):
    """A task: what is to be done, how far it is, what came of it.

    ``owner`` holds it until ``lease_until``; ``live_key`` is there while it is queued, running or done, and unique.
    """

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
    owner: str | None = None
    lease_until: float = 0.0
    live_key: str | None = Field(default=None, unique=True)
    created_at: float = Field(default_factory=time.time, index=True)
    updated_at: float = Field(default_factory=time.time)


class JobUnit(SQLModel, table=True):
    """A finished piece of a task (a page, say) by a model, kept so that it is never done twice."""

    job_id: str = Field(primary_key=True, foreign_key="job.id", ondelete="CASCADE")
    key: str = Field(primary_key=True)
    model: str = Field(default="", primary_key=True)
    data: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


__all__ = [
    "BUILTIN",
    "Assignment",
    "ChatChunk",
    "ChatFile",
    "ChatSession",
    "ChatTurn",
    "Job",
    "JobUnit",
    "Model",
    "Provider",
    "Session",
    "Setting",
    "select",
]
