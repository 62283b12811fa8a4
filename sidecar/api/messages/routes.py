"""``/v1/messages``: answer, stream, count. Errors in Anthropic's envelope, whoever refuses."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Header, Request
from fastapi.responses import Response

from sidecar.api import generation, routing
from sidecar.api.chat import as_wish, chat_job, conversation_of
from sidecar.api.messages.form import MessageForm, error_of
from sidecar.api.messages.schemas import CountRequest, MessagesRequest
from sidecar.api.messages.translate import chat_of
from sidecar.api.replies import Asked, respond, service_of
from sidecar.api.schemas import ChatRequest, error_responses
from sidecar.api.service import Service
from sidecar.engine.messages import Generate, ModelInfo, Tier, Tokenize

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATH = "/v1/messages"
_ERRORS = error_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503)
router = routing.router(prefix=PATH, tags=["messages"])


@router.post("", response_model=None, responses={200: {"description": "A message, or its events"}, **_ERRORS})
async def create(
    request: Request, body: MessagesRequest, x_request_priority: Annotated[str | None, Header()] = None
) -> Response:
    """Answer a conversation."""
    chat = chat_of(body)
    chat.refuse_unsupported()
    tier, priority = generation.tier_of(x_request_priority, chat)
    asked = Asked(model=body.model, keep_alive=body.keep_alive, stream=bool(body.stream), tier=tier)
    plan = partial(_job, service_of(request), chat, tier, priority)
    return await respond(request, asked, plan, MessageForm)


@router.post("/count_tokens", response_model=None, responses=_ERRORS)
async def count_tokens(request: Request, body: CountRequest) -> dict[str, Any]:
    """Count the tokens of a conversation, without its images."""
    service, chat = service_of(request), chat_of(body)
    async with service.models.use(body.model) as (_, model):
        conversation = conversation_of(service.settings, model, as_wish(chat, model), pictures=False)
        answer = await service.engine.tokenize(Tokenize(id=0, path=model.path, conversation=conversation))
    return {"input_tokens": len(answer.tokens)}


def _job(service: Service, chat: ChatRequest, tier: Tier, priority: int, model: ModelInfo) -> Generate:
    return chat_job(service.settings, model, as_wish(chat, model), tier, priority)


class Envelopes:
    """ASGI middleware: errors under ``/v1/messages`` leave in Anthropic's envelope, whoever made them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (scope["path"] == PATH or scope["path"].startswith(f"{PATH}/")):
            await self._app(scope, receive, send)
            return
        held: Message | None = None
        body = b""

        async def rewritten(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start" and message["status"] >= 400:
                held = message
                return
            if held is None:
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body", False):
                return
            start, held = held, None
            data = _enveloped(start["status"], body)
            kept = [
                (n, v) for n, v in start.get("headers", ()) if n.lower() not in (b"content-length", b"content-type")
            ]
            length = (b"content-length", str(len(data)).encode())
            await send({**start, "headers": [*kept, (b"content-type", b"application/json"), length]})
            await send({"type": "http.response.body", "body": data})

        await self._app(scope, receive, rewritten)


def _enveloped(status: int, body: bytes) -> bytes:
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = body.decode("utf-8", "replace")
    return json.dumps(error_of(status, message)).encode()
