"""Routes that read a large JSON body without a second copy of it.

The framework joins a body's pieces anew, decodes it to text, parses the text, and keeps the bytes until the answer is
sent: four times the size of a body of pictures. Here a large one is parsed as it came and let go.

msgspec parses it: twice as quick as the standard library and pydantic, and from the bytearray itself, of which pydantic
makes a copy. What it doesn't read (``NaN``, numbers beyond a double) pydantic does, as for small bodies.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from sidecar.api.bodies import LARGE, Octets, TooBroken, whole_characters
from sidecar.errors import ApiError

_decode = msgspec.json.Decoder().decode
_BEGINNINGS = frozenset((b"{", b"[", b" ", b"\t", b"\r", b"\n"))
_BEYOND = (b"NaN", b"Infinity")  # JSON has no such numbers, Python's and pydantic's parsers do


class JsonRequest(Request):
    """A request whose body is JSON; ``Bodies`` sees to that, and gives it in one piece."""

    async def body(self) -> bytes:
        """Return the body; of a large one no more than that there was one, since ``json`` has it already."""
        if not hasattr(self, "_body"):
            pieces = [piece async for piece in self.stream() if piece]
            whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if len(whole) > LARGE:
                try:
                    self._json = await asyncio.to_thread(parsed, whole)
                except TooBroken as exc:
                    raise ApiError(400, str(exc)) from exc
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


def parsed(body: Octets) -> Any:
    """Return what a large JSON text says; a bytearray with halves of characters is mended in place.

    Raises json.JSONDecodeError, UnicodeDecodeError, TooBroken.
    """
    if bytes(body[:1]) not in _BEGINNINGS:  # a byte order mark, another encoding
        return json.loads(whole_characters(body))
    try:
        return _read(body)
    except ValueError as exc:
        if not _may_have_halves(exc):
            raise
    return _read(whole_characters(body))


def _read(body: Octets) -> Any:
    try:
        return _decode(body)
    except RecursionError as exc:
        raise json.JSONDecodeError("nested too deeply", "", 0) from exc
    except ValueError as exc:
        if isinstance(exc, msgspec.ValidationError) or any(word in body for word in _BEYOND):
            return _with_odd_numbers(body)
        raise json.JSONDecodeError(str(exc), "", 0) from exc


def _with_odd_numbers(body: Octets) -> Any:
    try:
        return from_json(body)
    except ValueError as exc:
        raise json.JSONDecodeError(str(exc), "", 0) from exc


def _may_have_halves(exc: ValueError) -> bool:
    """Return whether a body that was not read may be so after halves of characters are mended.

    msgspec speaks of surrogates, and of a body that is cut off where a half is near its end; pydantic of the rest.
    """
    text = str(exc).lower()
    return any(word in text for word in ("surrogate", "truncated", "utf-8", "hex escape", "unicode"))
