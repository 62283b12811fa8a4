"""``POST /chat/agent-stream`` for ``useChat``, and the stored conversations."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from host_api.app.data.capabilities import Capability
from host_api.app.data.engine import ChatSession
from host_api.app.errors import ApiError
from host_api.app.services import Host, Services

router = APIRouter(prefix="/chat", tags=["chat"])


class Title(BaseModel):
    """A new title."""

    title: str


@router.post("/agent-stream", response_model=None)
async def agent_stream(request: Request, host: Host) -> Response:
    """The AI SDK's UI message stream (header included) for the request ``useChat`` sends.

    Besides its fields the body may have ``model_id`` (a model for this turn) and ``tools`` (false: none).
    """
    from host_api.app.chat import agent

    try:
        run_input = agent.parse(await request.body())
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "body"
        raise ApiError(422, f"{where}: {first['msg']}.", code="invalid_request") from None
    if not run_input.messages:
        raise ApiError(422, "messages: give at least one.", code="invalid_request")
    extra: dict[str, Any] = run_input.model_extra or {}
    images = agent.has_images(run_input)
    target, with_tools = await _target(host, extra, images=images)
    tools = host.tools if with_tools and extra.get("tools", True) is not False else ()

    def failed(_: Exception) -> None:
        if target.builtin:
            host.reconciler.suspect()

    turn = agent.Turn(
        run_input=run_input,
        target=target,
        tools=tools,
        timeout=host.settings.request_timeout,
        settings=agent.model_settings(
            target, temperature=host.settings.temperature, max_tokens=host.settings.max_answer
        ),
        saved=lambda messages: host.sessions.save(run_input.id, messages),
        failed=failed,
    )
    return agent.respond(turn)


async def _target(host: Services, extra: dict[str, Any], *, images: bool) -> tuple[Any, bool]:
    """The model of a turn, and whether it may call tools."""
    model_id = extra.get("model_id")
    if model_id is not None:
        if not isinstance(model_id, int):
            raise ApiError(422, "model_id: give a number.", code="invalid_request")
        model, provider = await asyncio.to_thread(host.store.model, model_id)
        return await host.gateway.target_of(model, provider), bool(model.capabilities.get(Capability.TOOL_USE))
    target = await host.gateway.target(Capability.VISION if images else Capability.TEXT)
    tool_user = await asyncio.to_thread(host.store.assigned, Capability.TOOL_USE)
    same = tool_user is not None and (tool_user.provider_id, tool_user.model) == (target.provider, target.model)
    return target, same


def _session(row: ChatSession) -> dict[str, Any]:
    return {"id": row.id, "title": row.title, "created_at": row.created_at, "updated_at": row.updated_at}


@router.get("/sessions")
def sessions(host: Host) -> list[dict[str, Any]]:
    """Every conversation, the newest first."""
    return [_session(s) for s in host.sessions.all()]


@router.get("/sessions/{session_id}")
def session(session_id: str, host: Host) -> dict[str, Any]:
    """One conversation; its ``messages`` are what ``useChat`` takes to go on with it."""
    row, messages = host.sessions.get(session_id)
    return {**_session(row), "messages": messages}


@router.patch("/sessions/{session_id}")
def rename(session_id: str, body: Title, host: Host) -> dict[str, Any]:
    """Rename a conversation."""
    return _session(host.sessions.rename(session_id, body.title))


@router.delete("/sessions/{session_id}", status_code=204)
def remove(session_id: str, host: Host) -> Response:
    """Delete a conversation."""
    host.sessions.remove(session_id)
    return Response(status_code=204)
