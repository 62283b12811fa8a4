"""The door of both servers, as a bare ASGI application behind it sees it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from host_api.loopback.guard import Guard

HERE = {"host": "127.0.0.1:60315"}
KEY = {"authorization": "Bearer secret"}


class Refused(Exception):
    """A server's own exception."""

    def __init__(self, status: int, message: str, code: str, wait: int | None = None) -> None:
        super().__init__(code)
        self.status_code = status
        self.code = code
        self.headers = {"Retry-After": str(wait)} if wait else None
        self.message = message

    def body(self) -> dict[str, Any]:
        return {"error": self.message, "code": self.code}


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, then answer how long it was."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"vary", b"Accept")]})
    await send({"type": "http.response.body", "body": str(size).encode()})


def guarded(app: Any = whole, **options: Any) -> Guard:
    return Guard(app, **{"refuse": Refused, "key": None, "max_body": 100, "client_timeout": 5, **options})


def ask(
    guard: Guard,
    headers: Mapping[str, str] | list[tuple[str, str]],
    method: str = "GET",
    path: str = "/x",
    body: tuple[bytes, ...] = (b"",),
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer to one request."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in pairs],
    }
    sent: list[Message] = []
    pieces = iter(body)

    async def receive() -> Message:
        piece = next(pieces, None)
        if piece is None:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": piece, "more_body": piece != body[-1] or piece == b"slow"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    found = {k.decode(): v.decode("latin-1") for k, v in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])


def status(guard: Guard, headers: Mapping[str, str] | list[tuple[str, str]], method: str = "GET") -> int:
    return ask(guard, headers, method)[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST:1", "[::1]:60315", "box.lan:9"])
def test_names_of_this_machine_and_named_ones_are_served(host: str) -> None:
    assert status(guarded(hosts=["box.lan"]), {"host": host}) == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("host", "evil.example")],
        [("host", "127.0.0.1.evil.example")],
        [("host", "127.0.0.1"), ("host", "evil.example")],
        [("host", "[::1].evil.example:80")],
        [("host", "")],
    ],
)
def test_other_names_are_not(headers: list[tuple[str, str]]) -> None:
    assert status(guarded(), headers) == 403


@pytest.mark.parametrize(
    ("origin", "without_key", "with_key"),
    [
        ("tauri://localhost", 200, 200),
        ("http://tauri.localhost", 200, 200),
        ("https://named.example", 200, 200),
        ("http://127.0.0.1:60315", 200, 200),  # the service's own page
        ("http://localhost:5173", 403, 200),  # a development server: only with the key
        ("http://127.0.0.1:5173", 403, 200),
        ("http://[::1]:3000", 403, 200),
        ("http://localhost.evil.example", 403, 403),
        ("http://localhost:5173.evil.example", 403, 403),
        ("https://evil.example", 403, 403),
        ("null", 403, 403),
        ("", 403, 403),
        ("file://", 403, 403),
    ],
)
def test_origins(origin: str, without_key: int, with_key: int) -> None:
    options = {"origins": ["https://named.example/"], "local_pages": True}
    headers = {**HERE, **KEY, "origin": origin}
    assert status(guarded(**options), headers) == without_key
    assert status(guarded(key="secret", **options), headers) == with_key
    strict = guarded(key="secret", origins=["https://named.example/"])
    assert status(strict, headers) == without_key, "without local_pages a key makes no difference"
    code, answer, _ = ask(guarded(**options), headers)
    assert answer.get("access-control-allow-origin") == (origin if code == 200 else None)


@pytest.mark.parametrize(
    ("site", "mode", "expected"),
    [
        ("cross-site", "no-cors", 403),
        ("same-site", "no-cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ],
)
def test_a_page_elsewhere_that_sends_no_origin_is_told_by_its_browser(site: str, mode: str, expected: int) -> None:
    assert status(guarded(), {**HERE, "sec-fetch-site": site, "sec-fetch-mode": mode}) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"authorization": "Bearer secret"}, 200),
        ({"authorization": "bearer  secret"}, 200),
        ({"authorization": "Basic secret"}, 401),
        ({"authorization": "Bearer secret2"}, 401),
        ({"authorization": "Bearer s\xe9cret"}, 401),
        ({"x-api-key": "secret"}, 200),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": "Bearer wrong", "x-api-key": "secret"}, 401),
    ],
)
def test_the_key_comes_as_a_bearer_token_or_as_x_api_key(headers: dict[str, str], expected: int) -> None:
    code, answer, _ = ask(guarded(key="secret"), {**HERE, **headers})
    assert code == expected
    assert ("www-authenticate" in answer) is (expected == 401)


def test_open_paths_need_no_key_and_preflights_carry_none() -> None:
    guard = guarded(key="secret")
    assert ask(guard, HERE, path="/health")[0] == 200
    asked = {**HERE, "origin": "tauri://localhost", "access-control-request-method": "POST"}
    code, answer, _ = ask(guard, {**asked, "access-control-request-headers": "x-a, x-b"}, "OPTIONS")
    assert (code, answer["access-control-allow-headers"]) == (204, "x-a, x-b")
    assert ask(guard, {**asked, "origin": "https://evil.example"}, "OPTIONS")[0] == 403
    assert ask(guard, HERE, "OPTIONS")[0] == 401, "an OPTIONS that is no preflight is a request as any other"


def test_a_body_is_measured_as_announced_and_as_it_comes() -> None:
    assert ask(guarded(), {**HERE, "content-length": "101"})[0] == 413
    assert ask(guarded(), HERE, body=(b"x" * 60, b"y" * 40))[2] == b"100"
    with pytest.raises(Refused, match="body_too_large"):
        ask(guarded(), HERE, body=(b"x" * 60, b"y" * 41))


def test_a_body_that_stops_coming_is_given_up() -> None:
    with pytest.raises(Refused, match="request_timeout"):
        ask(guarded(client_timeout=0.05), HERE, body=(b"slow",))


def test_a_draining_server_says_so_and_answers_health() -> None:
    guard = guarded(draining=lambda: True)
    code, answer, _ = ask(guard, HERE)
    assert (code, answer["retry-after"]) == (503, "2")
    assert ask(guard, HERE, path="/health")[0] == 200


def test_every_answer_forbids_guessing_its_type() -> None:
    assert ask(guarded(), HERE)[1]["x-content-type-options"] == "nosniff"
    assert ask(guarded(), {"host": "evil"})[1]["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_cancelled_answer_ends_also_between_two_events(steps: int) -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def sink(_: Message) -> None:
        await asyncio.sleep(0)

    async def silent() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def main() -> bool:
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": [(b"host", b"127.0.0.1")]}
        task = asyncio.create_task(guarded(endless, client_timeout=30)(scope, silent, sink))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(50):
            await asyncio.sleep(0)
        ended = task.done()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return ended

    assert asyncio.run(main())
