"""The door: loopback Host names, known Origins, the token and the body's size, before any route runs."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from host_api.app.errors import ApiError

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_APP_ORIGINS = frozenset({"tauri://localhost", "http://tauri.localhost", "https://tauri.localhost"})
_DEV_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")
_EXPOSE = "X-Vercel-AI-UI-Message-Stream, X-Session-Id, Retry-After"


def host_name(value: str) -> str:
    """The name in a Host header, without its port, in lower case."""
    value = value.strip().lower()
    return value.partition("]")[0] + "]" if value.startswith("[") else value.partition(":")[0]


def origin_allowed(origin: str, extra: Iterable[str] = ()) -> bool:
    """Whether a web page of ``origin`` may talk to this service."""
    return origin in _APP_ORIGINS or origin in extra or _DEV_ORIGIN.fullmatch(origin) is not None


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, *, token: str | None, max_body: int, origins: Iterable[str], hosts: Iterable[str]
    ) -> None:
        self._app = app
        self._token = token
        self._max_body = max_body
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
        except ApiError as exc:
            await _respond(send, exc.status_code, exc.body(), {})
            return
        cors = _cors(origin) if origin is not None else {}
        if scope["method"] == "OPTIONS" and origin and "access-control-request-method" in headers:
            wanted = headers.get("access-control-request-headers", "authorization, content-type")
            extra = {
                "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
                "Access-Control-Allow-Headers": wanted,
                "Access-Control-Max-Age": "600",
            }
            await _respond(send, 204, None, {**cors, **extra})
            return
        try:
            self._check_client(scope, headers)
        except ApiError as exc:
            await _respond(send, exc.status_code, exc.body(), cors)
            return

        async def with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update({"X-Content-Type-Options": "nosniff", **cors})
            await send(message)

        await self._app(scope, self._limited(receive), with_cors)

    def _check_source(self, headers: Headers, origin: str | None) -> None:
        if len(headers.getlist("host")) != 1 or host_name(headers["host"]) not in self._hosts:
            message = "This service answers to loopback names only; use http://127.0.0.1."
            raise ApiError(403, message, code="host_not_allowed")
        if origin is not None and not origin_allowed(origin, self._origins):
            message = f"Pages of {origin} may not use this service; start it with --allow-origin to let them."
            raise ApiError(403, message, code="origin_not_allowed")
        # A page elsewhere can send simple requests without an Origin (images, forms by GET): browsers say so.
        if (
            origin is None
            and headers.get("sec-fetch-site") == "cross-site"
            and headers.get("sec-fetch-mode") != "navigate"
        ):
            raise ApiError(403, "Requests from other sites are not served.", code="origin_not_allowed")

    def _check_client(self, scope: Scope, headers: Headers) -> None:
        path: str = scope["path"]
        is_page = scope["method"] in ("GET", "HEAD") and (path == "/" or path.startswith("/assets/"))
        if self._token is not None and path != "/health" and not is_page:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self._token.encode())
            if scheme.lower() != "bearer" or not right:
                raise ApiError(401, "Send the service's key as a bearer token.", code="invalid_api_key")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_body:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is over {self._max_body} bytes; send less.", code="body_too_large")

    def _limited(self, receive: Receive) -> Receive:
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._max_body:
                    raise self._too_large()
            return message

        return limited


def _cors(origin: str) -> dict[str, str]:
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSE, "Vary": "Origin"}


async def _respond(send: Send, status: int, body: dict[str, Any] | None, headers: dict[str, str]) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    out = {"content-length": str(len(data)), "connection": "close", **headers}
    if body is not None:
        out["content-type"] = "application/json"
    raw = [(k.lower().encode(), v.encode("latin-1")) for k, v in out.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": data})
