"""Requests as clients really send them, brought into the one form the routes read. ASGI, inside the guard.

Clients name their JSON ``text/plain`` or a form (curl's ``-d`` does), compress it, cut an emoji in two, write the whole
address into the request line, or ask with HEAD whether anyone is there. What can be understood without guessing is
served; the rest is refused with the name of the header to change.

A body is read whole here, before the framework parses it, because two things must be known first: how large it is
unpacked (a gzip of 64 KiB may hold 64 MiB), and how many values it holds (an array of a million numbers takes seconds
to validate, and tens of bytes for each of its own). Half a surrogate pair, which no UTF-8 text can have, is mended in a
small body here; in a large one only after its parser met it (``routing``), since to look for one takes longer than to
parse.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGE = 1 << 20
"""Bytes from which on a body is looked at and parsed on another thread, and mended only where its parser fails."""
MAX_VALUES = 1_000_000
"""JSON values in one body: a prompt of a million tokens is longer than any context."""
_JSON = b"application/json"
_PLAIN = frozenset(
    {b"", _JSON, b"text/plain", b"text/json", b"application/octet-stream", b"application/x-www-form-urlencoded"}
)
MAX_TEXT = 10 << 20
"""Bytes of a body beside pictures and files, where some of its characters make Python take four bytes for each."""
_STRETCH = 1 << 20  # bytes that are looked at before other threads have a turn
_ESCAPE = 12  # bytes of the longest escape, a pair
MAX_HALVES = 10_000
"""Halves of surrogate pairs that are mended in one body."""
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_GOOD = re.compile(rb"(?:[^\\]++|(?:" + _PAIR + rb")++|(?:\\[^u])++|(?:\\u(?:[^dD]|[dD][0-7]))++)*+")
"""What of a JSON text has no half of a pair. Possessive: what was read is not read again, nor is a place remembered."""
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_MARK = b"\\ufffd"  # as long as the escape it stands for, so that it can be put in its place
_FILE = re.compile(rb'"(?:data:[^",]{0,200},)?(?=[A-Za-z0-9+/=\\]{4096})(?:[A-Za-z0-9+/=]++(?:\\/)*+)++')
"""What is sent as base64, as a data URL or by itself; some write ``\\/`` for a slash."""
_RAW = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]|\xed[\xa0-\xbf][\x80-\xbf]")

Octets = bytes | bytearray

Refuse = Callable[[int, str, str | None], Exception]
"""Makes the server's own exception of a status, a message and the name of the header that is to blame."""


class Bodies:
    """ASGI middleware. ``refuse`` makes the errors; ``max_body`` is in bytes, unpacked."""

    def __init__(self, app: ASGIApp, *, refuse: Refuse, max_body: int) -> None:
        self._app = app
        self._refuse = refuse
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        kept = [
            (n, v)
            for n, v in scope["headers"]
            if n.lower() not in (b"content-type", b"content-encoding", b"content-length")
        ]
        # In place: what the router finds out about the request is read by the access log and the metrics.
        scope["headers"] = [*kept, (b"content-type", _JSON)]
        await self._app(scope, self._prepared(headers, receive), send)

    def _prepared(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """Return a ``receive`` that gives the body in one message; what it refuses is raised in the application."""
        given = False

        async def prepared() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            self._check_type(headers)
            buffer = bytearray()  # not a list: the pieces' memory would stay with the process
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                buffer += message.get("body", b"")
                if not message.get("more_body", False):
                    break
            if len(buffer) > LARGE:  # not copied into bytes
                body = await asyncio.to_thread(self._read, headers, buffer)
            else:
                body = self._read(headers, bytes(buffer))
            return {"type": "http.request", "body": body, "more_body": False}

        return prepared

    def _check_type(self, headers: dict[bytes, bytes]) -> None:
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind not in _PLAIN and not kind.endswith(b"+json"):
            raise self._refuse(
                415, f"content-type: {_text(kind)} is not read here; send JSON as application/json.", "content-type"
            )

    def _read(self, headers: dict[bytes, bytes], body: Octets) -> Octets:
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        body = self._unpacked(headers.get(b"content-encoding", b"").strip().lower(), body)
        if kind not in (b"", _JSON) and not kind.endswith(b"+json") and body.lstrip()[:1] not in (b"{", b"["):
            raise self._refuse(
                415, f"content-type: the body was sent as {_text(kind)} and is not JSON; send JSON.", "content-type"
            )
        if not few_values(body):
            raise self._refuse(413, f"The body holds over {MAX_VALUES:,} JSON values; send fewer.", None)
        if not little_text(body):
            text = f"The body holds over {MAX_TEXT >> 20} MB of text beside pictures and files; send less."
            raise self._refuse(413, text, None)
        try:
            return body if len(body) > LARGE else whole_characters(body)
        except TooBroken as exc:
            raise self._refuse(400, str(exc), None) from exc

    def _unpacked(self, encoding: bytes, body: Octets) -> Octets:
        if encoding in (b"", b"identity"):
            return body
        if encoding not in (b"gzip", b"x-gzip", b"deflate"):
            raise self._refuse(
                415,
                f"content-encoding: {_text(encoding)} is not read here; send gzip, deflate or the plain body.",
                "content-encoding",
            )
        # zlib's own header, gzip's, or for "deflate" none at all, as some clients have it.
        raw = encoding == b"deflate" and body[:1] not in (b"\x78", b"\x58", b"\x68", b"\x48")
        inflater = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
        try:
            out = inflater.decompress(body, self._max_body + 1)
        except zlib.error as exc:
            raise self._refuse(
                400, f"content-encoding: the body is not {_text(encoding)} ({exc}).", "content-encoding"
            ) from exc
        if len(out) > self._max_body:
            raise self._refuse(413, f"The body is over {self._max_body} bytes when unpacked; send less.", None)
        if not inflater.eof:
            raise self._refuse(400, f"content-encoding: the {_text(encoding)} body is cut off.", "content-encoding")
        return out


class RequestLines:
    """ASGI middleware, outside of the guard: the whole address in the request line, and HEAD as GET without a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"].startswith(("http://", "https://")):  # as a proxy is asked (RFC 9112, 3.2.2)
                path = urlsplit(scope["raw_path"].decode("latin-1")).path or "/"
                scope = {**scope, "path": unquote(path), "raw_path": path.encode("latin-1")}
            if scope["method"] == "HEAD":  # the server leaves the body out by itself
                scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def few_values(body: Octets) -> bool:
    """Return whether a JSON body holds no more than ``MAX_VALUES``. Other threads have their turn meanwhile."""
    found = 0
    for start in range(0, len(body), _STRETCH):
        end = start + _STRETCH
        # To look for a sign is ten times as quick as to count it, and pictures have none.
        found += sum(body.count(sign, start, end) for sign in (b",", b"[", b"{") if body.find(sign, start, end) >= 0)
        if found > MAX_VALUES:
            return False
    return True


def little_text(body: Octets) -> bool:
    """Return whether a JSON body has little text, or only such as Python keeps in no more bytes than the body does.

    A text of 64 MB with one emoji among English takes 320 MB while it is read, four bytes for each character.
    """
    if len(body) <= MAX_TEXT or (body.isascii() and (b"\\" not in body or b"\\u" not in body)):
        return True
    return len(body) - sum(len(match[0]) for match in _FILE.finditer(body)) <= MAX_TEXT


class TooBroken(ValueError):
    """A body with more halves of surrogate pairs than any text that was cut has. Its text is for the client."""

    def __init__(self) -> None:
        super().__init__(
            f"The body holds over {MAX_HALVES:,} halves of characters (surrogates without their pair); send UTF-8."
        )


def whole_characters(body: Octets) -> Octets:
    """Return a JSON body with each half of a surrogate pair replaced by U+FFFD. Raises TooBroken.

    A bytearray is changed in place: U+FFFD takes as many bytes as a half, escaped or not, so there is no second copy.
    Nothing is parsed for that: a body is many pictures and one text that was cut in an emoji, and to parse and write it
    anew took twelve times its size. Escapes are read in their order, for a backslash may be escaped itself, and without
    a step of Python for each: five million pairs took 9 s and 1.6 GB.
    """
    if b"\\ud" in body or b"\\uD" in body:
        body = _whole_escapes(body)
    return _whole_bytes(body) if b"\xed" in body else body


def _whole_escapes(body: Octets) -> Octets:
    found, at = 0, 0
    while (at := _end_of_good(body, at)) < len(body):
        if _HALF.match(body, at):
            found += 1
            if found > MAX_HALVES:
                raise TooBroken
            if isinstance(body, bytes):
                body = bytearray(body)
            body[at : at + len(_MARK)] = _MARK
            at += len(_MARK)
        else:
            at += 2  # no escape: the parser will say so
    return body


def _end_of_good(body: Octets, at: int) -> int:
    while True:
        stop = min(len(body), at + _STRETCH)
        found = _GOOD.match(body, at, stop)
        assert found is not None, "it matches nothing as well"
        at = found.end()
        if stop == len(body) or at <= stop - _ESCAPE:  # else an escape may only be cut by the stretch's end
            return at


def _whole_bytes(body: Octets) -> Octets:
    """Replace halves that are bytes of their own, and bring pairs of them (CESU-8, six bytes) to UTF-8's four."""
    whole = body if isinstance(body, bytearray) else bytearray(body)
    read = written = 0
    for found, (start, end) in enumerate(match.span() for match in _RAW.finditer(whole)):
        if found >= MAX_HALVES:
            raise TooBroken
        text = whole[start:end].decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
        written = _moved(whole, read, start, written)
        for byte in text.decode("utf-16-le", "replace").encode():
            whole[written] = byte
            written += 1
        read = end
    written = _moved(whole, read, len(whole), written)
    del whole[written:]
    return whole


def _moved(body: bytearray, start: int, end: int, to: int) -> int:
    """Move ``start`` to ``end`` of a body towards its beginning; return where it ends there."""
    if start == to:
        return end
    for at in range(start, end, _STRETCH):
        piece = body[at : min(end, at + _STRETCH)]
        body[to : to + len(piece)] = piece
        to += len(piece)
    return to


def _text(value: bytes) -> str:
    return value.decode("latin-1")[:80]
