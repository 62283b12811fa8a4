"""Routes that read a large JSON body without a second copy of it.

The framework joins a body's pieces anew, decodes it to text, parses the text, and keeps the bytes until the answer is
sent: four times the size of a body of pictures. Here a large one is parsed as it came and let go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

LARGE = 1 << 20
"""Bytes from which on a body is read so."""


class JsonRequest(Request):
    """A request whose body is JSON; ``Bodies`` sees to that, and gives it in one piece."""

    async def body(self) -> bytes:
        """Return the body; of a large one no more than that there was one, since ``json`` has it already."""
        if not hasattr(self, "_body"):
            pieces = [piece async for piece in self.stream() if piece]
            whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if len(whole) > LARGE:
                self._json = parsed(whole)
                whole = b"{}"
            self._body = whole
        return self._body


class JsonRoute(APIRoute):
    """A route that gets ``JsonRequest``s."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


def router(**kwargs: Any) -> APIRouter:
    """Return a router of such routes."""
    return APIRouter(route_class=JsonRoute, **kwargs)


def parsed(body: bytes) -> Any:
    """Return what a large JSON text says. Raises json.JSONDecodeError, UnicodeDecodeError, RecursionError."""
    if body[:1] not in (b"{", b"["):  # white space before it, a byte order mark, another encoding
        return json.loads(body)
    try:
        return from_json(body)
    except ValueError as exc:
        raise json.JSONDecodeError(str(exc), "", 0) from exc
