"""Conversations: a journal of turns in the database. Blocking; call from a thread.

Theory of operation. A conversation is a tree: each turn names the one it follows (``parent_id``), and ``head_id`` of
the conversation is the leaf of the branch that is shown. A turn is written before anybody acts on it: the user's
message before the model is asked, the answer's turn (state ``running``, no parts) in the same transaction. While the
answer grows, its chunks are appended a few times a second; at its end they become the turn's parts in one transaction.
What a dead process left running is put together from its chunks at the next start, as ``interrupted``.

A client says what it answers to. A new question whose parent is not the head any more was asked of a state that is
gone (another window went on): 409, and nothing is written, unless it says ``branch`` (an edited question, an answer
asked for anew), which begins a second branch at the parent and makes it the head. The first branch stays.

A worked timeline, two windows on a conversation whose head is a1: window A asks u2 after a1 → u2 and the running a2 are
there, head a2. Window B, which still shows a1, asks u3 after a1 → 409 "went on elsewhere". B loads it anew, sees u2 and
the growing a2, and asks u3 after a2. The host is killed amid a2: the next start shows a2 up to its last chunk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, or_, text, update
from sqlmodel import col

from host_api.app.data.database import Database
from host_api.app.data.files import Files
from host_api.app.data.tables import ChatChunk, ChatFile, ChatSession, ChatTurn, Session, select
from host_api.app.errors import ApiError, not_found

_HINT = "GET /chat/sessions lists them."
UNTITLED = "New chat"
RUNNING, DONE, INTERRUPTED = "running", "done", "interrupted"


@dataclass(frozen=True)
class Begun:
    """A run that was written down: the answer's turn, and the turns it answers to, the oldest first."""

    session_id: str
    turn_id: str
    path: list[ChatTurn]


@dataclass
class Branches:
    """The turns of a branch, the oldest first, and for each the turns that could stand in its place."""

    turns: list[ChatTurn]
    siblings: dict[str, list[str]] = field(default_factory=dict)


class Sessions:
    """Listed newest first; a message is a dictionary with id, role and parts, as the AI SDK has them."""

    def __init__(self, database: Database, files: Files) -> None:
        self._db = database
        self.files = files

    def all(self, words: str = "") -> list[ChatSession]:
        """Return every conversation, or those whose title or turns have ``words`` in them."""
        query = select(ChatSession).order_by(col(ChatSession.updated_at).desc())
        if words:
            like = "%" + words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            # Through SQLite's own reading of JSON, since other scripts are stored as escapes.
            said = text(
                "id IN (SELECT session_id FROM chatturn, json_each(chatturn.parts) AS part "
                "WHERE json_extract(part.value, '$.text') LIKE :like ESCAPE '\\')"
            )
            titled = col(ChatSession.title).like(like, escape="\\")
            query = query.where(or_(titled, said.bindparams(like=like)))
        with self._db.read() as db:
            return list(db.exec(query))

    def get(self, session_id: str, leaf: str | None = None) -> tuple[ChatSession, Branches]:
        """Return one with the turns of its branch, or of the branch that ``leaf`` is on. Raises a 404."""
        with self._db.read() as db:
            row = _session(db, session_id)
            turns = {t.id: t for t in db.exec(select(ChatTurn).where(ChatTurn.session_id == session_id))}
        end = leaf if leaf in turns else row.head_id
        if leaf is not None:
            end = _youngest(turns, end)
        path = _path(turns, end)
        children: dict[str | None, list[ChatTurn]] = {}
        for turn in sorted(turns.values(), key=lambda t: t.position):
            children.setdefault(turn.parent_id, []).append(turn)
        siblings = {t.id: [s.id for s in children[t.parent_id] if s.role == t.role] for t in path}
        return row, Branches(path, siblings)

    def begin(
        self,
        session_id: str,
        message: dict[str, Any] | None,
        parent_id: str | None,
        *,
        turn_id: str,
        branch: bool = False,
    ) -> Begun:
        """Write down a question and that its answer runs; ``message`` None: the answer to ``parent_id`` anew.

        Asked again with the same question after the same turn, the question is there once. Raises a 409 for a stale
        parent or an answer that runs, a 422 for a parent or message that can't be.
        """
        with self._db.write() as db:
            row = db.get(ChatSession, session_id)
            if row is None:
                row = ChatSession(id=session_id, title=UNTITLED)
                db.add(row)
                db.flush()
            turns = {t.id: t for t in db.exec(select(ChatTurn).where(ChatTurn.session_id == session_id))}
            question = self._question(db, row, turns, message, parent_id, branch=branch)
            answer = ChatTurn(
                session_id=session_id,
                id=turn_id,
                parent_id=question.id,
                position=len(turns) + 1,
                role="assistant",
                state=RUNNING,
            )
            db.add(answer)
            row.head_id, row.updated_at = turn_id, time.time()
            turns[question.id] = question
            return Begun(session_id, turn_id, _path(turns, question.id))

    def _question(
        self,
        db: Session,
        row: ChatSession,
        turns: dict[str, ChatTurn],
        message: dict[str, Any] | None,
        parent_id: str | None,
        *,
        branch: bool,
    ) -> ChatTurn:
        if parent_id is not None and parent_id not in turns:
            raise _stale("the turn it answers to is not there any more")
        known = turns.get(message["id"] if message is not None else parent_id or "")
        if message is None and (known is None or known.role != "user"):
            raise ApiError(422, "Only a question can be answered anew; name one.", code="invalid_request")
        if known is not None:
            if message is not None and (known.parent_id, known.parts) != (parent_id, message["parts"]):
                raise _stale(f"there is another turn called {known.id!r}")
            if any(t.parent_id == known.id and t.state == RUNNING for t in turns.values()):
                raise _stale("the question is being answered")
            return known
        assert message is not None
        if not branch:
            head = turns.get(row.head_id or "")
            if head is not None and head.id != parent_id:
                raise _stale("it went on elsewhere, in another window perhaps")
            if head is not None and head.state == RUNNING:
                raise _stale("an answer is still being written")
        question = ChatTurn(
            session_id=row.id,
            id=message["id"],
            parent_id=parent_id,
            position=len(turns),
            role="user",
            parts=message["parts"],
        )
        db.add(question)
        for digest in digests_in(message["parts"]):
            if not self.files.has(digest):
                raise ApiError(409, "A file of the question is not there any more; send it again.", code="file_gone")
            db.merge(ChatFile(session_id=row.id, digest=digest))
        if row.title == UNTITLED:
            row.title = title_of([message])
        return question

    def grow(self, session_id: str, turn_id: str, position: int, chunks: list[Any]) -> None:
        """Append what came of a running answer; nothing when the conversation was deleted meanwhile."""
        with self._db.write() as db:
            if _state(db, session_id, turn_id) == RUNNING:
                db.add(ChatChunk(session_id=session_id, turn_id=turn_id, position=position, chunks=chunks))

    def end(self, session_id: str, turn_id: str, parts: list[Any], state: str) -> bool:
        """End a running answer with all its parts; False when it was deleted meanwhile: it stays so."""
        with self._db.write() as db:
            row = db.get(ChatTurn, (session_id, turn_id))
            if row is None or row.state != RUNNING:
                return False
            row.parts, row.state = parts, state
            mine = (col(ChatChunk.session_id) == session_id) & (col(ChatChunk.turn_id) == turn_id)
            db.exec(delete(ChatChunk).where(mine))
            db.exec(update(ChatSession).where(col(ChatSession.id) == session_id).values(updated_at=time.time()))
            return True

    def interrupted(self) -> list[tuple[str, str, list[Any]]]:
        """Return what an earlier process left running: conversation, turn, and the chunks that came."""
        with self._db.read() as db:
            found = []
            for turn in db.exec(select(ChatTurn).where(ChatTurn.state == RUNNING)):
                mine = (col(ChatChunk.session_id) == turn.session_id) & (col(ChatChunk.turn_id) == turn.id)
                rows = db.exec(select(ChatChunk).where(mine).order_by(col(ChatChunk.position)))
                found.append((turn.session_id, turn.id, [chunk for row in rows for chunk in row.chunks]))
            return found

    def show(self, session_id: str, leaf: str) -> None:
        """Make the branch that ``leaf`` is on the one shown. Raises a 404, or a 409 while an answer runs."""
        with self._db.write() as db:
            row = _session(db, session_id)
            turns = {t.id: t for t in db.exec(select(ChatTurn).where(ChatTurn.session_id == session_id))}
            if leaf not in turns:
                raise not_found("turn", leaf, f"GET /chat/sessions/{session_id} shows them.")
            row.head_id = _youngest(turns, leaf)

    def rename(self, session_id: str, title: str) -> ChatSession:
        """Give it another title. Raises ApiError."""
        title = " ".join(title.split())
        if not 1 <= len(title) <= 200:
            raise ApiError(422, "title: give 1 to 200 characters.", code="invalid_request")
        with self._db.write() as db:
            row = _session(db, session_id)
            row.title = title
            return row

    def remove(self, session_id: str) -> None:
        """Forget it, and the files no other conversation uses. Raises a 404."""
        with self._db.write() as db:
            row = _session(db, session_id)
            mine = list(db.exec(select(ChatFile.digest).where(ChatFile.session_id == session_id)))
            db.delete(row)
            db.flush()
            used = set(db.exec(select(ChatFile.digest).where(col(ChatFile.digest).in_(mine))))
            # Within the transaction: no question can take the file between the look and the deletion.
            for digest in set(mine) - used:
                self.files.drop(digest)

    def sweep(self) -> int:
        """Delete the files that no conversation has; return how many. For a start."""
        with self._db.read() as db:
            return self.files.sweep(set(db.exec(select(ChatFile.digest))))


def _session(db: Session, session_id: str) -> ChatSession:
    row = db.get(ChatSession, session_id)
    if row is None:
        raise not_found("session", session_id, _HINT)
    return row


def _state(db: Session, session_id: str, turn_id: str) -> str | None:
    row = db.get(ChatTurn, (session_id, turn_id))
    return row.state if row is not None else None


def _stale(why: str) -> ApiError:
    return ApiError(409, f"This chat changed: {why}. Load it anew and ask again.", code="stale_parent")


def _path(turns: dict[str, ChatTurn], end: str | None) -> list[ChatTurn]:
    path: list[ChatTurn] = []
    while end is not None and end in turns and len(path) <= len(turns):
        path.append(turns[end])
        end = turns[end].parent_id
    return path[::-1]


def _youngest(turns: dict[str, ChatTurn], end: str | None) -> str | None:
    """Return the leaf below ``end`` that was reached by always taking the youngest turn."""
    while below := [t for t in turns.values() if t.parent_id == end and end is not None]:
        end = max(below, key=lambda t: t.position).id
    return end


def digests_in(parts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the digests of the files that parts refer to, and of what was read of them."""
    found = []
    for part in parts:
        url = str(part.get("url", ""))
        if part.get("type") == "file" and url.startswith(FILE_URL):
            found.append(url.removeprefix(FILE_URL))
            found += (part.get("providerMetadata") or {}).get(READ, {}).get("files", [])
    return found


FILE_URL = "chat/files/"
READ = "mlx-host"  # under this name in a part's providerMetadata stands what was read of a document


def title_of(messages: Sequence[dict[str, Any]]) -> str:
    """Return a title from the first thing the user wrote."""
    for message in messages:
        if message.get("role") == "user":
            for part in message.get("parts", []):
                text = " ".join(str(part.get("text", "")).split())
                if part.get("type") == "text" and text:
                    return text if len(text) <= 60 else text[:59] + "…"
    return UNTITLED
