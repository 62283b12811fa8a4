"""``POST /chat/agent-stream`` for ``useChat``, answers that go on, and the stored conversations."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import mimetypes
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ValidationError

from host_api.app.chat import attached, runs
from host_api.app.chat.runs import Run
from host_api.app.data.capabilities import Capability
from host_api.app.data.chats import FILE_URL, RUNNING
from host_api.app.data.tables import ChatSession, ChatTurn
from host_api.app.errors import ApiError, not_found
from host_api.app.models.gateway import Target
from host_api.app.routes.uploads import upload
from host_api.app.services import Host, Services

if TYPE_CHECKING:
    from host_api.app.chat.agent import Asked, Turn

router = APIRouter(prefix="/chat", tags=["chat"])
SOURCES = 5  # stretches of documents an answer is given
_HEADERS = {
    "x-vercel-ai-ui-message-stream": "v1",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


class Change(BaseModel):
    """A new title, or the turn whose branch is to be shown."""

    title: str | None = None
    head: str | None = None


@router.post("/agent-stream", response_model=None)
async def agent_stream(request: Request, host: Host) -> Response:
    """The AI SDK's UI message stream (header included) for the request ``useChat`` sends.

    The service has the history: of ``messages`` the last one is taken, and the one before it says what it follows;
    ``parent_id`` says so too. A stale parent is a 409, unless ``branch`` is true. Besides, the body may have
    ``model_id`` (a model for this turn), ``tools`` (false: none) and ``documents`` (true: what the user's documents say
    about it is looked up first and shown as the answer's sources). A client that leaves stops nothing.
    """
    agent = await asyncio.to_thread(importlib.import_module, "host_api.app.chat.agent")
    try:
        asked = agent.parse(await request.body())
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "body"
        raise ApiError(422, f"{where}: {first['msg']}.", code="invalid_request") from None
    if asked.message is not None:
        await asyncio.to_thread(agent.keep_files, asked.message, host.files)
        await asyncio.to_thread(host.attachments.take, asked.message)
    turn, sees = await _turn(host, asked)
    begun = await asyncio.to_thread(
        host.sessions.begin,
        asked.session_id,
        asked.message,
        asked.parent_id,
        turn_id=uuid.uuid4().hex,
        branch=asked.branch,
    )

    async def emit(call: str | None, chunk: dict[str, Any]) -> None:
        await run.add_after(call, chunk)

    async def consent(server: str, tool: str, call: str | None, _: dict[str, Any]) -> bool:
        return await host.consents.ask(f"{server}/{tool}", call, emit)

    async def source() -> AsyncGenerator[dict[str, Any], None]:
        teller = await _teller(host, turn.target, begun.path, sees=sees)
        messages = await asyncio.to_thread(agent.history, begun.path, host.files, teller)
        more = await host.mcp.tools(consent) if turn.tools else []
        sources = await _sources(host, begun.path[-1]) if asked.extra.get("documents") is True else None
        whole = dataclasses.replace(turn, tools=[*turn.tools, *more], sources=sources)
        async with aclosing(agent.answer(whole, begun, messages)) as chunks:
            async for chunk in chunks:
                yield chunk
                if chunk["type"] == "start" and sources is not None:
                    yield {"type": "data-sources", "id": "sources", "data": sources}

    run = host.runs.start(begun, source)
    return _followed(run)


async def _sources(host: Services, question: ChatTurn) -> list[dict[str, Any]]:
    """Return the stretches of the user's documents that a question is about. Raises ApiError."""
    words = " ".join(str(part.get("text", "")) for part in question.parts if part["type"] == "text")
    found = await host.indexer.search(words[:4000], SOURCES) if words.strip() else []
    return [{name: hit.get(name) for name in ("document", "task_id", "page", "pictures", "text")} for hit in found]


async def _teller(host: Services, target: Target, path: Sequence[ChatTurn], *, sees: bool) -> attached.Teller:
    """Return what tells the documents of a conversation to a model, within what it has room for."""
    context = None
    if target.builtin and attached.has_documents(attached.parts_of(path)):
        context = await host.gateway.context(target)
    return attached.Teller(host.files, attached.room_for(context), attached.PICTURES if sees else 0)


async def _turn(host: Services, asked: Asked) -> tuple[Turn, bool]:
    """Choose the model of a turn and what it may call, and tell whether it sees.

    Raises ApiError before anything is written down.
    """
    from host_api.app.chat import agent

    earlier: list[ChatTurn] = []
    if asked.parent_id is not None:
        _, branch = await asyncio.to_thread(host.sessions.get, asked.session_id, asked.parent_id)
        earlier = branch.turns
    fresh = ChatTurn(
        session_id="", id="", position=0, role="user", parts=asked.message["parts"] if asked.message else []
    )
    turns = [*earlier, fresh]
    images, scans = agent.has_images(turns), attached.has_scans(attached.parts_of(turns))
    target, with_tools, sees = await _target(host, asked.extra, images=images, scans=scans)
    tools = host.tools if with_tools and asked.extra.get("tools", True) is not False else ()
    turn = agent.Turn(
        target=target,
        tools=tools,
        timeout=host.settings.request_timeout,
        settings=agent.model_settings(
            target, temperature=host.settings.temperature, max_tokens=host.settings.max_answer
        ),
        failed=host.reconciler.suspect if target.builtin else lambda: None,
    )
    return turn, sees


async def _target(host: Services, extra: dict[str, Any], *, images: bool, scans: bool) -> tuple[Target, bool, bool]:
    """Return the model of a turn, whether it may call tools, and whether it sees."""
    model_id = extra.get("model_id")
    if model_id is not None:
        if not isinstance(model_id, int):
            raise ApiError(422, "model_id: give a number.", code="invalid_request")
        model, provider = await asyncio.to_thread(host.store.model, model_id)
        has = model.capabilities
        target = await host.gateway.target_of(model, provider)
        return target, bool(has.get(Capability.TOOL_USE)), bool(has.get(Capability.VISION))
    # Pictures need eyes; scanned pages of a document get them where there are some.
    eyes = scans and await asyncio.to_thread(host.store.assigned, Capability.VISION) is not None
    target = await host.gateway.target(Capability.VISION if images or eyes else Capability.TEXT)
    tool_user = await asyncio.to_thread(host.store.assigned, Capability.TOOL_USE)
    same = tool_user is not None and (tool_user.provider_id, tool_user.model) == (target.provider, target.model)
    return target, same, images or eyes


def _followed(run: Run) -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        async for chunk in run.follow():
            yield runs.sse(chunk)
        yield "data: [DONE]\n\n"

    headers = {**_HEADERS, "X-Session-Id": run.session_id}
    return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


@router.get("/agent-stream/{session_id}/stream", response_model=None)
async def resume(session_id: str, host: Host) -> Response:
    """The answer of a conversation that is being written, from its beginning; 204 when none is.

    This is where the AI SDK's ``resumeStream`` looks.
    """
    found = host.runs.of(session_id)
    return _followed(found[-1]) if found else Response(status_code=204)


@router.post("/sessions/{session_id}/stop")
async def stop(session_id: str, host: Host) -> dict[str, Any]:
    """Stop the answer that is being written; what came of it is kept."""
    return {"stopped": await host.runs.stop(session_id)}


def _session(row: ChatSession, host: Services) -> dict[str, Any]:
    document = {name: getattr(row, name) for name in ("id", "title", "created_at", "updated_at")}
    return {**document, "running": bool(host.runs.of(row.id))}


@router.get("/sessions")
def sessions(host: Host, words: str = Query("", max_length=200)) -> list[dict[str, Any]]:
    """Every conversation, the newest first; or those with ``words`` in them."""
    return [_session(s, host) for s in host.sessions.all(words.strip())]


@router.get("/sessions/{session_id}")
def session(session_id: str, host: Host, leaf: str | None = None) -> dict[str, Any]:
    """One conversation; its ``messages`` are what ``useChat`` takes to go on with it.

    They are those of the branch shown, or of the one that the turn ``leaf`` is on; ``siblings`` has the turns that
    could stand in each one's place. An answer that is being written is not among them: resume its stream.
    """
    row, branch = host.sessions.get(session_id, leaf)
    shown = [t for t in branch.turns if t.state != RUNNING]
    messages = [{"id": t.id, "role": t.role, "parts": t.parts, "metadata": {"state": t.state}} for t in shown]
    return {**_session(row, host), "head": row.head_id, "messages": messages, "siblings": branch.siblings}


@router.post("/files", status_code=201)
async def add_file(request: Request, host: Host) -> dict[str, Any]:
    """Keep a document (multipart ``file``) for a question, and read it: any kind that ``POST /tasks/index`` takes.

    Returns ``part``, which goes into the question's ``parts`` as it is, and how much was read: ``pages``,
    ``characters``, ``scans`` (pages told as pictures) and a ``note`` on what was left out.
    """
    name, content, _ = await upload(request)
    found = await asyncio.to_thread(host.attachments.add, name, content)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    part = {"type": "file", "mediaType": kind, "filename": name, "url": FILE_URL + found["digest"]}
    return {"part": part, **{key: found[key] for key in ("pages", "characters", "scans", "note")}}


@router.get("/files/{digest}")
def file(digest: str, host: Host, request: Request) -> Response:
    """A file of a conversation, as bytes."""
    try:
        content = host.files.get(digest)
    except FileNotFoundError:
        raise not_found("file", digest, "Its conversation was deleted, perhaps.") from None
    headers = {"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private, max-age=31536000"}
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.patch("/sessions/{session_id}")
def change(session_id: str, body: Change, host: Host) -> dict[str, Any]:
    """Rename a conversation, or show another of its branches."""
    if body.title is None and body.head is None:
        raise ApiError(422, "Give title or head.", code="invalid_request")
    if body.head is not None:
        host.sessions.show(session_id, body.head)
    if body.title is not None:
        return _session(host.sessions.rename(session_id, body.title), host)
    return session(session_id, host)


@router.delete("/sessions/{session_id}", status_code=204)
async def remove(session_id: str, host: Host) -> Response:
    """Delete a conversation; an answer that is being written ends."""
    found = host.runs.of(session_id)
    await asyncio.to_thread(host.sessions.remove, session_id)
    await asyncio.gather(*(run.stop() for run in found))
    return Response(status_code=204)
