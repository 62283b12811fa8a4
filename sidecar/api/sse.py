"""Server-sent events, and work that ends when its client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sidecar.errors import ApiError, envelope

T = TypeVar("T")
KEEP_ALIVE = 15.0  # seconds between comments while nothing else is sent


@dataclass(frozen=True)
class Comment:
    """A comment line among the events; clients skip it, people see it."""

    text: str


class ClientGone(Exception):
    """The client closed the connection."""


async def until_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, cancelled when the client closes the connection. Raises ClientGone."""
    task = asyncio.ensure_future(work)
    watch = asyncio.create_task(_gone(request.receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for one in (task, watch):
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await one


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def event(document: Any, name: str | None = None) -> bytes:
    """One event with a JSON document."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(document, ensure_ascii=False)}\n\n".encode()


class EventStream(Response):
    """Sends a stream of documents as events, ``[DONE]`` last; an error becomes an ``error`` event.

    ``named`` events go out under the document's ``type``, without a ``[DONE]``, as newer APIs have it; ``failed``
    gives the documents that tell of an error there.

    The iterator is closed as soon as the client goes away, and ``held`` (the model in use, the count of running
    requests) with it: an iterator that was never begun would not do so itself.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        documents: AsyncIterator[Any],
        *,
        held: AsyncExitStack,
        headers: dict[str, str] | None = None,
        named: bool = False,
        failed: Callable[[dict[str, Any]], list[dict[str, Any]]] | None = None,
        on_error: Callable[[BaseException], None] = lambda exc: None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._documents = documents
        self._held = held
        self._named = named
        self._failed = failed
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream; then let go of what was held for it, however it ended and however early."""
        async with self._held:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            body = asyncio.create_task(self._send_all(send))
            watch = asyncio.create_task(_gone(receive))
            try:
                await asyncio.wait({body, watch}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in (body, watch):
                    one.cancel()
                    with contextlib.suppress(asyncio.CancelledError, OSError):
                        await one

    def _event(self, document: dict[str, Any]) -> bytes:
        return event(document, str(document["type"]) if self._named else None)

    async def _send_all(self, send: Send) -> None:
        async def write(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        iterator = self._documents.__aiter__()
        try:
            while True:
                pending = asyncio.ensure_future(anext(iterator, None))
                try:
                    while not (await asyncio.wait({pending}, timeout=KEEP_ALIVE))[0]:
                        await write(b": keep-alive\n\n")
                finally:
                    if not pending.done():
                        pending.cancel()
                        with contextlib.suppress(asyncio.CancelledError):
                            await pending
                document = pending.result()
                if document is None:
                    break
                comment = isinstance(document, Comment)
                await write(f": {document.text}\n\n".encode() if comment else self._event(document))
            await write(b"" if self._named else b"data: [DONE]\n\n", more=False)
        except OSError:
            raise
        except Exception as exc:
            self._on_error(exc)
            body = exc.body() if isinstance(exc, ApiError) else envelope(500, "The server met an unexpected error.")
            if self._failed is None:
                await write(event(body, "error"), more=False)
            else:
                await write(b"".join(map(self._event, self._failed(body["error"]))), more=False)
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
