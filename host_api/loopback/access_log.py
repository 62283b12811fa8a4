"""One log line and one identifier a request, for both servers."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class AccessLog:
    """ASGI middleware, outermost. ``quiet`` paths are not logged; ``done`` hears of every request and its status.

    The answer's ``X-Request-Id`` stands in the line too, so that what a client saw can be found. Query strings are
    left out: they may hold what people typed.
    """

    def __init__(
        self,
        app: ASGIApp,
        log: logging.Logger,
        *,
        quiet: Iterable[str] = ("/health",),
        done: Callable[[Scope, int], None] = lambda scope, status: None,
    ) -> None:
        self._app = app
        self._log = log
        self._quiet = frozenset(quiet)
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        start = time.monotonic()
        request_id = uuid.uuid4().hex[:16]

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if scope["path"] not in self._quiet:
                took = (time.monotonic() - start) * 1000
                self._log.info('"%s %s" %d %.0f ms %s', scope["method"], path_of(scope), status, took, request_id)
            self._done(scope, status)


def path_of(scope: Scope) -> str:
    """Return the path as it may stand in a log: percent-encoded, so that no line break or quote of it gets there."""
    return quote(scope["path"], safe="/:@!$&()*+,;=~-._")
