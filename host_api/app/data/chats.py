"""Conversations in the database. Blocking; call from a thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, delete

from host_api.app.data.engine import ChatMessage, ChatSession, Session, select
from host_api.app.errors import ApiError, not_found

_HINT = "GET /chat/sessions lists them."
UNTITLED = "New chat"


class Sessions:
    """Listed newest first; a message is a dictionary with id, role and parts, as the AI SDK has them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _session(self) -> Session:
        return Session(self._engine, expire_on_commit=False)

    def all(self) -> list[ChatSession]:
        """Every conversation."""
        with self._session() as db:
            return list(db.exec(select(ChatSession).order_by(ChatSession.updated_at.desc())).all())  # type: ignore[attr-defined]

    def get(self, session_id: str) -> tuple[ChatSession, list[dict[str, Any]]]:
        """One with its messages. Raises a 404."""
        with self._session() as db:
            row = self._row(db, session_id)
            query = select(ChatMessage).where(ChatMessage.session_id == session_id).order_by(ChatMessage.position)  # type: ignore[arg-type]
            return row, [{"id": m.id, "role": m.role, "parts": m.parts} for m in db.exec(query)]

    def _row(self, db: Session, session_id: str) -> ChatSession:
        row = db.get(ChatSession, session_id)
        if row is None:
            raise not_found("session", session_id, _HINT)
        return row

    def save(self, session_id: str, messages: Sequence[dict[str, Any]]) -> None:
        """Make or replace a conversation; its title is the first thing the user said, until renamed."""
        with self._session() as db:
            row = db.get(ChatSession, session_id) or ChatSession(id=session_id, title=UNTITLED)
            if row.title == UNTITLED:
                row.title = title_of(messages)
            row.updated_at = time.time()
            db.add(row)
            db.flush()
            db.exec(delete(ChatMessage).where(ChatMessage.session_id == session_id))  # type: ignore[arg-type]
            for position, message in enumerate(messages):
                db.add(
                    ChatMessage(
                        session_id=session_id,
                        position=position,
                        id=str(message.get("id", "")),
                        role=str(message.get("role", "")),
                        parts=list(message.get("parts", [])),
                    )
                )
            db.commit()

    def rename(self, session_id: str, title: str) -> ChatSession:
        """Give it another title. Raises ApiError."""
        title = title.strip()
        if not 1 <= len(title) <= 200:
            raise ApiError(422, "title: give 1 to 200 characters.", code="invalid_request")
        with self._session() as db:
            row = self._row(db, session_id)
            row.title = title
            db.add(row)
            db.commit()
            return row

    def remove(self, session_id: str) -> None:
        """Forget it. Raises a 404."""
        with self._session() as db:
            db.delete(self._row(db, session_id))
            db.commit()


def title_of(messages: Sequence[dict[str, Any]]) -> str:
    """A title from the first thing the user wrote."""
    for message in messages:
        if message.get("role") == "user":
            for part in message.get("parts", []):
                text = " ".join(str(part.get("text", "")).split())
                if part.get("type") == "text" and text:
                    return text if len(text) <= 60 else text[:59] + "…"
    return UNTITLED
