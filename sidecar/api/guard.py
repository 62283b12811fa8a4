"""The door: Host, Origin, token, drain and size checks, before any route sees a request."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidecar.errors import ApiError, envelope

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_APP_ORIGINS = frozenset({"tauri://localhost", "http://tauri.localhost", "https://tauri.localhost"})
_DEV_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")
_OPEN_PATHS = frozenset({"/health", "/health/ready"})
_DURING_DRAIN = frozenset({"/health", "/health/ready", "/metrics", "/version"})
_ALLOW_METHODS = "GET, POST, DELETE, OPTIONS"
_EXPOSE = "X-Request-Id, X-Request-Priority, Retry-After"


def host_name(value: str) -> str:
    """The name in a Host header, without its port, in lower case."""
    value = value.strip().lower()
    if value.startswith("["):
        return value.partition("]")[0] + "]"
    return value.partition(":")[0]


def origin_allowed(origin: str, extra: Iterable[str] = ()) -> bool:
    """Whether a web page of ``origin`` may talk to this server."""
    return origin in _APP_ORIGINS or origin in extra or _DEV_ORIGIN.fullmatch(origin) is not None


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        draining: Callable[[], bool],
        max_body: int,
        client_timeout: float,
        origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._token = token
        self._draining = draining
        self._max_body = max_body
        self._timeout = client_timeout
        self._origins = frozenset(origins)
        self._hosts = _LOOPBACK | {h.lower() for h in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        try:
            self._check_source(headers, origin)
            if scope["method"] == "OPTIONS" and origin and "access-control-request-method" in headers:
                await _respond(send, 204, None, _preflight(headers, origin))
                return
            self._check_client(scope, headers)
        except ApiError as exc:
            known = exc.status_code != 403 and origin is not None
            extra = _cors(origin) if known and origin else {}
            await _respond(send, exc.status_code, exc.body(), {**extra, **(exc.headers or {})})
            return
        await self._app(scope, self._limited(receive), self._timed(send, origin))

    def _check_source(self, headers: Headers, origin: str | None) -> None:
        if len(headers.getlist("host")) != 1 or host_name(headers["host"]) not in self._hosts:
            raise ApiError(
                403,
                "This server answers to loopback names only; use http://127.0.0.1.",
                code="host_not_allowed",
            )
        if origin is not None and not origin_allowed(origin, self._origins):
            raise ApiError(
                403,
                f"Pages of {origin} may not use this server; start it with --allow-origin to let them.",
                code="origin_not_allowed",
            )

    def _check_client(self, scope: Scope, headers: Headers) -> None:
        path = scope["path"]
        if self._token is not None and path not in _OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self._token.encode())
            if scheme.lower() != "bearer" or not right:
                raise ApiError(401, "Send the server's key as a bearer token.", code="invalid_api_key")
        if self._draining() and path not in _DURING_DRAIN:
            raise ApiError(503, "The server is stopping.", code="draining", retry_after=2)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_body:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is over {self._max_body} bytes; send smaller images.", code="body_too_large")

    def _limited(self, receive: Receive) -> Receive:
        seen = 0
        done = False

        async def limited() -> Message:
            nonlocal seen, done
            if done:
                return await receive()
            try:
                async with asyncio.timeout(self._timeout or None):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "The body came too slowly.", code="request_timeout") from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                done = not message.get("more_body", False)
                if seen > self._max_body:
                    raise self._too_large()
            return message

        return limited

    def _timed(self, send: Send, origin: str | None) -> Send:
        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start" and origin is not None:
                MutableHeaders(scope=message).update(_cors(origin))
            try:
                # Not wait_for: in Python 3.11 that swallows a cancellation which meets the end of the sending, and
                # the answer to a client that has left would go on.
                async with asyncio.timeout(self._timeout or None):
                    await send(message)
            except TimeoutError:
                raise OSError("the client stopped reading") from None

        return timed


def _cors(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": _EXPOSE,
        "Vary": "Origin",
    }


def _preflight(headers: Headers, origin: str) -> dict[str, str]:
    wanted = headers.get("access-control-request-headers", "authorization, content-type")
    return {
        **_cors(origin),
        "Access-Control-Allow-Methods": _ALLOW_METHODS,
        "Access-Control-Allow-Headers": wanted,
        "Access-Control-Max-Age": "600",
    }


async def _respond(send: Send, status: int, body: dict[str, object] | None, headers: dict[str, str]) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    out = {"content-length": str(len(data)), "connection": "close", **headers}
    if body is not None:
        out["content-type"] = "application/json"
    raw = [(k.lower().encode(), v.encode("latin-1")) for k, v in out.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": data})


__all__ = ["Guard", "envelope", "host_name", "origin_allowed"]
