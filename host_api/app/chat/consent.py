"""Whether a tool may run: asked in the chat that wants it, remembered where its user says always."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from host_api.app.data.database import Database
from host_api.app.data.tables import Setting
from host_api.app.errors import not_found

PATIENCE = 300.0  # seconds; an answer nobody looks at doesn't wait for ever

Emit = Callable[[str | None, dict[str, Any]], Awaitable[None]]
"""Puts a chunk into the answer, after the one that shows the call."""


class Consents:
    """Questions that wait, and what was allowed for good."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._waiting: dict[str, tuple[str, asyncio.Future[bool]]] = {}

    async def ask(self, name: str, call: str | None, emit: Emit) -> bool:
        """Return whether ``name`` (server/tool) may run now."""
        if await asyncio.to_thread(self._allowed, name):
            return True
        question = uuid.uuid4().hex
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[question] = (name, answer)
        try:
            await emit(call, {"type": "tool-approval-request", "approvalId": question, "toolCallId": call})
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError:
            return False
        finally:
            del self._waiting[question]

    async def answer(self, question: str, *, approved: bool, always: bool) -> None:
        """Answer a question that waits. Raises a 404."""
        found = self._waiting.get(question)
        if found is None:
            raise not_found("approval", question, "It was answered, or its chat has ended.")
        name, future = found
        if approved and always:
            await asyncio.to_thread(self._allow, name)
        if not future.done():
            future.set_result(approved)

    def allowed(self) -> list[str]:
        """Return what was allowed for good. Blocking."""
        from sqlmodel import col, select

        with self._db.read() as db:
            rows = db.exec(select(Setting).where(col(Setting.key).startswith("consent:"))).all()
        return [row.key.removeprefix("consent:") for row in rows]

    def forget(self, name: str) -> None:
        """Ask again from now on. Blocking."""
        with self._db.write() as db:
            row = db.get(Setting, f"consent:{name}")
            if row is not None:
                db.delete(row)

    def _allowed(self, name: str) -> bool:
        with self._db.read() as db:
            return db.get(Setting, f"consent:{name}") is not None

    def _allow(self, name: str) -> None:
        with self._db.write() as db:
            db.merge(Setting(key=f"consent:{name}", value="always"))
