"""From a completion request to its response: one way for chat and for texts, each with its own documents."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from sidecar.api.answers import Answers
from sidecar.api.service import Service
from sidecar.api.sse import ClientGone, Comment, EventStream, until_gone
from sidecar.engine.inflight import Paused
from sidecar.engine.messages import Generate, ModelInfo, Piece, Prepared, Tier

log = logging.getLogger("sidecar.api")

PRIORITY_HEADER = "X-Request-Priority"
SERVICE_TIERS = {Tier.INTERACTIVE: "default", Tier.BATCH: "flex"}
CLIENT_CLOSED = 499
HEADERS_AFTER = 5.0  # seconds a stream waits for its first token before its headers are sent


def service_of(request: Request) -> Service:
    """Return the server's state."""
    service: Service = request.app.state.service
    return service


def base_document(prefix: str, model: str, tier: Tier) -> dict[str, Any]:
    """Return the fields that every document of a response shares, with a fresh id."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": model,
        "service_tier": SERVICE_TIERS[tier],
        "system_fingerprint": None,
    }


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What of a body decides how it is answered, whatever its API. ``keep_alive`` as clients write it."""

    model: str | None
    keep_alive: str | float | None = None
    stream: bool = False
    tier: Tier = Tier.INTERACTIVE


class Form(Protocol):
    """How answers look on the wire. Made anew for each request. ``named``: events go out under their type."""

    named: bool

    def whole(self, answers: Answers) -> dict[str, Any]:
        """Return the document of finished answers."""

    def opening(self, answers: Answers) -> list[dict[str, Any]]:
        """Return the chunks that go before all others."""

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunks of one piece."""

    def closing(self, answers: Answers) -> list[dict[str, Any]]:
        """Return the chunks after the last piece."""

    def failed(self, error: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the chunks of a stream that ends by an error, whose OpenAI document is given."""


class PlainErrors:
    """What the forms of chat and texts share: unnamed chunks, and an error as its envelope."""

    named = False

    def failed(self, error: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the error's envelope."""
        return [{"error": error}]


async def respond(
    request: Request,
    asked: Asked,
    plan: Callable[[ModelInfo], Generate],
    form: Callable[[str, Generate], Form],
    *,
    ended: Callable[[], None] = lambda: None,
) -> Response:
    """Run a request: load its model, make its job by ``plan`` (on another thread), answer in its ``form``.

    ``ended`` is called once the answer is whole, or its stream is over, however that came.
    """
    service = service_of(request)
    async with AsyncExitStack() as stack:
        stack.enter_context(service.active())
        try:
            name, answers, source = await until_gone(request, begin(stack, service, asked, plan))
            shape = form(name, answers.job)
            headers = {PRIORITY_HEADER: asked.tier.label}
            if not asked.stream:
                document = await until_gone(request, _whole(shape, answers, source))
                ended()
                return JSONResponse(document, headers=headers)
            head = await until_gone(request, first(source, HEADERS_AFTER))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED)
        stack.callback(ended)
        held = stack.pop_all()
        return EventStream(
            _stream(shape, answers, source, head),
            held=held,
            headers=headers,
            named=shape.named,
            failed=shape.failed,
            on_error=lambda exc: log.error("a stream ended by an error: %s", exc),
        )


async def begin(
    stack: AsyncExitStack, service: Service, asked: Asked, plan: Callable[[ModelInfo], Generate]
) -> tuple[str, Answers, AsyncGenerator[Piece | Comment]]:
    """Return the model's name, the answers to come and their pieces; ``stack`` holds the model and ends the work.

    The request counts as waiting from here on, through the load, until the engine begins with it.
    """
    begun = stack.enter_context(service.queued(asked.tier))
    name, model = await stack.enter_async_context(service.models.use(asked.model, keep_alive=asked.keep_alive))
    job = await asyncio.to_thread(plan, model)
    answers = Answers(job)
    source = _pieces(service, answers, begun)
    stack.push_async_callback(source.aclose)
    return name, answers, source


async def _pieces(service: Service, answers: Answers, begun: Callable[[], None]) -> AsyncGenerator[Piece | Comment]:
    """Yield the pieces of all choices as they come, counted in ``answers``; leaving cancels what still runs."""
    async with aclosing(service.engine.generate(answers.job)) as replies:
        async for reply in replies:
            if isinstance(reply, Paused):
                yield Comment("the engine is started anew; the answer goes on")
                continue
            answers.add(reply)
            if isinstance(reply, Prepared) and reply.remarks:
                log.info("not enforced: %s", "; ".join(reply.remarks)[:1000])
            if not isinstance(reply, Prepared):
                begun()
            if isinstance(reply, Piece):
                yield reply


async def _whole(form: Form, answers: Answers, source: AsyncIterator[Piece | Comment]) -> dict[str, Any]:
    async for _ in source:
        pass
    return form.whole(answers)


async def _stream(
    form: Form,
    answers: Answers,
    source: AsyncIterator[Piece | Comment],
    head: tuple[Piece | Comment | None, asyncio.Future[Any] | None],
) -> AsyncIterator[dict[str, Any] | Comment]:
    for chunk in form.opening(answers):
        yield chunk
    piece, pending = head
    if pending is not None:
        piece = await pending
    while piece is not None:
        if isinstance(piece, Piece):
            for chunk in form.chunks(piece):
                yield chunk
        else:
            yield piece
        piece = await anext(source, None)
    for chunk in form.closing(answers):
        yield chunk


async def first(iterator: AsyncIterator[Any], patience: float) -> tuple[Any, asyncio.Future[Any] | None]:
    """Return the first item, or the future of it when it takes longer than ``patience`` seconds."""
    pending = asyncio.ensure_future(anext(iterator, None))
    try:
        finished, _ = await asyncio.wait({pending}, timeout=patience)
    except asyncio.CancelledError:
        pending.cancel()
        raise
    return (pending.result(), None) if finished else (None, pending)
