"""The door of both servers: who may ask, how much, how slowly. ASGI, around the whole application.

Theory of operation. A program on 127.0.0.1 is asked by three kinds of clients, and only one kind is welcome:

* **Programs of this user** know the key (a 0600 file, or the sidecar's record) and send it, as a bearer token or as
  ``x-api-key``, the way Anthropic's clients do.
* **Programs of other users** of the machine reach the port all the same. Without the key they get a 401.
* **Web pages** run in the user's browser and reach the port too. A browser tells where a request comes from:
  ``Origin`` on everything but simple GETs, ``Sec-Fetch-Site`` on every request; and ``Host`` says which name the page
  used, which stops a foreign name that was pointed at 127.0.0.1 (DNS rebinding). A page is let in when its origin is
  this server itself, a Tauri app's, one named with ``--allow-origin``, or, where a key is asked for and
  ``local_pages`` is on, a page of this machine (a development server).

The checks run in this order, each with its status: the source (403), a preflight (204), the key (401), draining
(503), the announced size (413). While the body comes, its real size (413) and its pace (408) are watched, and while the
answer goes out, a client that stops reading is given up after the same time.

A worked example, ``client_timeout`` 60 s, ``max_body`` 64 MiB: a client announces 10 MB, sends 4 MB and falls silent.
At 60 s after its last byte the application's read raises the 408; nothing of the request has reached a model.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_APP_ORIGINS = frozenset({"tauri://localhost", "http://tauri.localhost", "https://tauri.localhost"})
_LOCAL_PAGE = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")


class ErrorDocument(Protocol):
    """The part of a server's own exception that the guard needs to answer with it."""

    status_code: int
    headers: Mapping[str, str] | None

    def body(self) -> dict[str, Any]: ...


class Refuse(Protocol):
    """Makes the server's own exception of a status, a message, a code and the seconds to wait, if any.

    Amid a body it is raised out of the application's ``receive``, so it must be one the application answers.
    """

    def __call__(self, status: int, message: str, code: str, wait: int | None = None) -> Any: ...


class _Refused(Exception):
    """A check failed before the application saw the request."""

    def __init__(self, error: ErrorDocument) -> None:
        super().__init__(error)
        self.error = error


_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^\[\]:/@\s]+)(:\d{1,5})?")


def host_name(value: str) -> str:
    """Return the name in a Host header, without its port, in lower case; empty when the header is not one."""
    found = _HOST.fullmatch(value.strip().lower())
    return found[1] if found else ""


def key_in(headers: Mapping[str, list[str]]) -> str:
    """Return the key a request carries, as a bearer token or as ``x-api-key``; empty when it carries none."""
    scheme, _, given = headers.get("authorization", [""])[0].partition(" ")
    return given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", [""])[0].strip()


class Guard:
    """ASGI middleware. ``refuse`` makes the errors; paths are compared as the framework routes them.

    ``open_paths`` need no key, ``during_drain`` are answered while ``draining``. ``max_body`` is in bytes,
    ``client_timeout`` in seconds, 0 = for ever.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        refuse: Refuse,
        key: str | None,
        max_body: int,
        client_timeout: float,
        origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
        local_pages: bool = False,
        open_paths: Callable[[str, str], bool] = lambda method, path: path == "/health",
        draining: Callable[[], bool] = lambda: False,
        during_drain: Iterable[str] = ("/health",),
        methods: str = "GET, POST, PUT, PATCH, DELETE, OPTIONS",
        expose: str = "Retry-After, X-Request-Id",
    ) -> None:
        self._app = app
        self._refuse = refuse
        self._key = key
        self._max_body = max_body
        self._timeout = client_timeout or None
        self._origins = _APP_ORIGINS | {o.rstrip("/").lower() for o in origins}
        self._hosts = LOOPBACK | {h.lower() for h in hosts}
        self._local_pages = local_pages and key is not None
        self._open_paths = open_paths
        self._draining = draining
        self._during_drain = frozenset(during_drain)
        self._methods = methods
        self._expose = expose

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        origin = headers.get("origin", [None])[0]
        cors = {}
        try:
            self._check_source(headers, origin)
            if origin is not None:
                cors = self._cors(origin)
            if scope["method"] == "OPTIONS" and origin and "access-control-request-method" in headers:
                await _respond(send, 204, None, {**cors, **self._preflight(headers)})
                return
            self._check_client(scope, headers)
        except _Refused as refused:
            error = refused.error
            await _respond(send, error.status_code, error.body(), {**cors, **(error.headers or {})})
            return
        await self._app(scope, self._limited(receive), self._timed(send, cors))

    def origin_allowed(self, origin: str, host: str) -> bool:
        """Return whether a web page of ``origin`` may talk to this server, which it called ``host``."""
        origin = origin.lower()
        if origin in self._origins or origin in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return True
        return self._local_pages and _LOCAL_PAGE.fullmatch(origin) is not None

    def _check_source(self, headers: Mapping[str, list[str]], origin: str | None) -> None:
        hosts = headers.get("host", [])
        if len(hosts) != 1 or host_name(hosts[0]) not in self._hosts:
            message = "This server answers to loopback names only; use http://127.0.0.1, or start it with --allow-host."
            raise _Refused(self._refuse(403, message, "host_not_allowed"))
        if origin is not None:
            if not self.origin_allowed(origin, hosts[0]):
                message = f"Pages of {origin} may not use this server; start it with --allow-origin to let them."
                raise _Refused(self._refuse(403, message, "origin_not_allowed"))
        # A page elsewhere can send simple requests without an Origin (images, forms by GET): browsers say so. A page
        # of another port is "same-site": without an Origin nothing tells which, and it has no business here either.
        elif (
            headers.get("sec-fetch-site", [""])[0] in ("cross-site", "same-site")
            and headers.get("sec-fetch-mode", [""])[0] != "navigate"
        ):
            raise _Refused(self._refuse(403, "Requests from other sites are not served.", "origin_not_allowed"))

    def _check_client(self, scope: Scope, headers: Mapping[str, list[str]]) -> None:
        path: str = scope["path"]
        if self._key is not None and not self._open_paths(scope["method"], path):
            given = key_in(headers)
            if not hmac.compare_digest(given.encode(), self._key.encode()):
                message = "Send this server's key as a bearer token (Authorization: Bearer …) or as x-api-key."
                raise _Refused(self._refuse(401, message, "invalid_api_key"))
        if self._draining() and path not in self._during_drain:
            raise _Refused(self._refuse(503, "The server is stopping.", "draining", 2))
        length = headers.get("content-length", [""])[0]
        if length.isdigit() and int(length) > self._max_body:
            raise _Refused(self._too_large())

    def _too_large(self) -> Any:
        message = (
            f"The body is over {self._max_body} bytes; send less, or start the server with a larger --max-body-mb."
        )
        return self._refuse(413, message, "body_too_large")

    def _limited(self, receive: Receive) -> Receive:
        seen = 0
        done = False

        async def limited() -> Message:
            nonlocal seen, done
            if done:
                return await receive()
            try:
                async with asyncio.timeout(self._timeout):
                    message = await receive()
            except TimeoutError:
                raise self._refuse(408, "The body came too slowly.", "request_timeout") from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                done = not message.get("more_body", False)
                if seen > self._max_body:
                    raise self._too_large()
            return message

        return limited

    def _timed(self, send: Send, cors: Mapping[str, str]) -> Send:
        extra = _raw({"X-Content-Type-Options": "nosniff", **cors})

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in extra}
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in names]
                message = {**message, "headers": [*kept, *extra]}
            try:
                # Not wait_for: in Python 3.11 that swallows a cancellation which meets the end of the sending, and
                # the answer to a client that has left would go on.
                async with asyncio.timeout(self._timeout):
                    await send(message)
            except TimeoutError:
                raise OSError("the client stopped reading") from None

        return timed

    def _cors(self, origin: str) -> dict[str, str]:
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": self._expose,
            "Vary": "Origin",
        }

    def _preflight(self, headers: Mapping[str, list[str]]) -> dict[str, str]:
        wanted = headers.get("access-control-request-headers", ["authorization, content-type"])[0]
        return {
            "Access-Control-Allow-Methods": self._methods,
            "Access-Control-Allow-Headers": wanted,
            "Access-Control-Max-Age": "600",
        }


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]


async def _respond(send: Send, status: int, body: dict[str, Any] | None, headers: Mapping[str, str]) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    out = {"content-length": str(len(data)), "connection": "close", "x-content-type-options": "nosniff", **headers}
    if body is not None:
        out["content-type"] = "application/json"
    if status == 401:
        out["www-authenticate"] = "Bearer"
    await send({"type": "http.response.start", "status": status, "headers": _raw(out)})
    await send({"type": "http.response.body", "body": data})
