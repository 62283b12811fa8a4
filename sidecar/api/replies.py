"""From a completion request to its response: one way for chat and for texts, each with its own documents."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from sidecar.api import progress
from sidecar.api.answers import Answers
from sidecar.api.schemas import SamplingFields
from sidecar.api.service import Service
from sidecar.api.sse import ClientGone, Comment, EventStream, until_gone
from sidecar.engine.inflight import Paused
from sidecar.engine.messages import Generate, ModelInfo, Piece, Prepared, Tier

log = logging.getLogger("sidecar.api")

PRIORITY_HEADER = "X-Request-Priority"
SERVICE_TIERS = {Tier.INTERACTIVE: "default", Tier.BATCH: "flex"}
CLIENT_CLOSED = 499
HEADERS_AFTER = progress.FIRST  # seconds a stream waits for its first token before its headers are sent


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
    """What of a body decides how it is answered, whatever its API. ``keep_alive`` as clients write it.

    ``progress``: events tell how far the request is before its first token, not only comments.
    """

    model: str | None
    keep_alive: str | float | None = None
    stream: bool = False
    progress: bool = False
    tier: Tier = Tier.INTERACTIVE


def asked_of(body: SamplingFields, tier: Tier) -> Asked:
    """Return what of an OpenAI body decides how it is answered."""
    return Asked(
        model=body.model,
        keep_alive=body.keep_alive,
        stream=bool(body.stream),
        progress=bool(body.stream_options and body.stream_options.include_progress),
        tier=tier,
    )


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

    def told(self, progress: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the chunks that tell how far the request is; none where its API has no form for that."""

    def failed(self, error: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the chunks of a stream that ends by an error, whose OpenAI document is given."""


class PlainErrors:
    """What the forms of chat and texts share: unnamed chunks, progress as one, and an error as its envelope."""

    named = False
    _base: dict[str, Any]

    def told(self, progress: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a chunk without choices that says how far the request is."""
        return [{**self._base, "choices": [], "progress": progress}]

    def failed(self, error: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the error's envelope."""
        return [{"error": error}]


async def respond(
    request: Request,
    asked: Asked,
    plan: Callable[[ModelInfo], Generate],
    form: Callable[[str], Form],
    *,
    ended: Callable[[], None] = lambda: None,
) -> Response:
    """Run a request: load its model, make its job by ``plan`` (on another thread), answer in the ``form`` for its name.

    ``ended`` is called once the answer is whole, or its stream is over, however that came. A stream whose first token
    takes longer than ``HEADERS_AFTER`` begins before it, and says how far the request is.
    """
    service = service_of(request)
    async with AsyncExitStack() as stack:
        stack.enter_context(service.active())
        work = await stack.enter_async_context(AsyncExitStack())  # what is begun is held by it
        beginning = asyncio.create_task(_begin(work, service, asked, plan, form))
        stack.push_async_callback(_ended, beginning)
        headers = {PRIORITY_HEADER: asked.tier.label}
        try:
            if not asked.stream:
                shape, answers, source = await until_gone(request, beginning)
                document = await until_gone(request, _whole(shape, answers, source))
                ended()
                return JSONResponse(document, headers=headers)
            local = await until_gone(request, asyncio.to_thread(service.models.find, asked.model))
            named = form(local.name)
            waiting = Waiting(service, asked, beginning, named)
            stack.push_async_callback(waiting.close)
            await until_gone(request, waiting.first(progress.SOON if asked.progress else HEADERS_AFTER))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED)
        stack.callback(ended)
        held = stack.pop_all()
        return EventStream(
            waiting.stream(),
            held=held,
            headers=headers,
            named=named.named,
            failed=lambda error: waiting.shape_or(named).failed(error),
            on_error=lambda exc: log.error("a stream ended by an error: %s", exc),
        )


Begun = tuple[Form, Answers, AsyncGenerator[Piece | Comment]]


async def _begin(
    stack: AsyncExitStack,
    service: Service,
    asked: Asked,
    plan: Callable[[ModelInfo], Generate],
    form: Callable[[str], Form],
) -> Begun:
    name, answers, source = await begin(stack, service, asked, plan)
    return form(name), answers, source


async def _ended(task: asyncio.Future[Any]) -> None:
    """End a task; what it raises was told, or nobody waits for it."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


class Waiting:
    """A stream from before its model is there to its end: until the first piece it tells how far the request is."""

    def __init__(self, service: Service, asked: Asked, beginning: asyncio.Task[Begun], named: Form) -> None:
        """``named``: the form for the model's name, which tells of what goes on before the model is there."""
        self._named = named
        self._service = service
        self._asked = asked
        self._beginning = beginning
        self._next: asyncio.Future[Piece | Comment | None] | None = None
        self._last: object = None
        self._opened = False

    def shape_or(self, other: Form) -> Form:
        """Return the form of the stream, ``other`` where it never began."""
        done = self._beginning.done() and not self._beginning.cancelled() and self._beginning.exception() is None
        return self._beginning.result()[0] if done else other

    async def first(self, patience: float) -> None:
        """Wait up to ``patience`` seconds for the first piece. Raises what went wrong until then."""
        end = time.monotonic() + patience
        await asyncio.wait({self._beginning}, timeout=patience)
        if self._beginning.done():
            await asyncio.wait({self._pending()}, timeout=max(0.0, end - time.monotonic()))
            if self._pending().done():
                self._pending().result()

    def _pending(self) -> asyncio.Future[Piece | Comment | None]:
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._beginning.result()[2], None))
        return self._next

    async def stream(self) -> AsyncGenerator[dict[str, Any] | Comment]:
        """Yield the chunks of the whole stream. Raises what went wrong."""
        async for one in self._until(self._beginning):
            yield one
        form, answers, source = self._beginning.result()
        async for one in self._until(self._pending()):
            for chunk in self._open(form, answers) if answers.prepared is not None else ():
                yield chunk
            yield one
        for chunk in self._open(form, answers):
            yield chunk
        piece = self._pending().result()
        while piece is not None:
            if isinstance(piece, Piece):
                for chunk in form.chunks(piece):
                    yield chunk
            else:
                yield piece
            piece = await anext(source, None)
        for chunk in form.closing(answers):
            yield chunk

    def _open(self, form: Form, answers: Answers) -> list[dict[str, Any]]:
        """Return the chunks that go before all others, once."""
        if self._opened:
            return []
        self._opened = True
        return form.opening(answers)

    async def close(self) -> None:
        """Stop waiting for the next piece."""
        if self._next is not None:
            await _ended(self._next)

    async def _until(self, pending: asyncio.Future[Any]) -> AsyncGenerator[dict[str, Any] | Comment]:
        """Yield how far the request is, whenever that changes, until ``pending`` is done."""
        every = progress.EVENTS_EVERY if self._asked.progress else progress.EVERY
        while not pending.done():
            for one in self._told():
                yield one
            await asyncio.wait({pending}, timeout=every)

    def _told(self) -> list[dict[str, Any] | Comment]:
        begun = self._beginning.result() if self._beginning.done() else None
        told = progress.of_request(self._service, begun[1] if begun is not None else None)
        if told is None or told == self._last:
            return []
        self._last = told
        events: list[dict[str, Any]] = []
        if self._asked.progress or (begun is not None and begun[0].named and self._opened):
            events = (begun[0] if begun is not None else self._named).told(told)
        return [*events] if events else [Comment(progress.words(told))]


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
