"""The listener's hold on the engine: sends requests, hands each its replies. On the event loop's thread."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from sidecar.engine.messages import (
    Began,
    Cancel,
    Embed,
    Embedded,
    Finished,
    Generate,
    Load,
    Loaded,
    ModelInfo,
    Piece,
    Pulse,
    Refused,
    Reply,
    Request,
    Shed,
    Tier,
    Tokenize,
    Tokenized,
    Unload,
)
from sidecar.errors import ApiError, LoadError


class Channel(Protocol):
    """A way to an engine."""

    def send(self, request: Request) -> None:
        """Hand over a request; never blocks."""

    def pulse(self) -> Pulse:
        """Return how the engine does."""

    def close(self) -> None:
        """End the engine. Blocking."""


class EngineClient:
    """Requests in flight and who waits for them. ``connect`` starts an engine whose replies go to what it is given."""

    def __init__(self, connect: Callable[[Callable[[Reply], None]], Channel]) -> None:
        self._connect = connect
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ids = itertools.count(1)
        self._inboxes: dict[int, asyncio.Queue[Reply]] = {}
        self._rows: dict[int, tuple[Tier, set[int]]] = {}  # choices that left the queue and go on

    def running(self, tier: Tier) -> int:
        """Return how many answers of a tier are being worked on."""
        return sum(len(rows) for of, rows in self._rows.values() if of is tier)

    @property
    def pulse(self) -> Pulse:
        """How the engine does; a default before it was started."""
        return self._channel.pulse() if self._channel is not None else Pulse()

    # --- what is asked -------------------------------------------------------------------------------
    async def load(self, path: Path) -> ModelInfo:
        """Load a model folder. Raises LoadError."""
        try:
            reply = await self._one(Load(id=0, path=str(path)))
        except ApiError as exc:
            raise LoadError(exc.message) from exc
        assert isinstance(reply, Loaded)
        return reply.model

    async def unload(self, path: Path) -> None:
        """Let a model's memory go; what still runs on it ends with an error."""
        assert isinstance(await self._one(Unload(id=0, path=str(path))), Finished)

    async def shed(self) -> None:
        """Give up what only saves time."""
        assert isinstance(await self._one(Shed(id=0)), Finished)

    async def embed(self, request: Embed) -> Embedded:
        """Return vectors of texts. Raises ApiError."""
        reply = await self._one(request)
        assert isinstance(reply, Embedded)
        return reply

    async def tokenize(self, request: Tokenize) -> Tokenized:
        """Return the tokens of a text or a conversation. Raises ApiError."""
        reply = await self._one(request)
        assert isinstance(reply, Tokenized)
        return reply

    async def generate(self, request: Generate) -> AsyncGenerator[Reply]:
        """Yield what answers a request: its ``Prepared``, then what its choices give until each has finished.

        Leaving the iterator cancels what still runs. Raises ApiError.
        """
        number, inbox = self._send(request)
        left, rows = request.choices, set[int]()
        self._rows[number] = (request.tier, rows)
        try:
            while left:
                reply = await inbox.get()
                if isinstance(reply, Refused):
                    left = 0
                    raise _error(reply)
                if isinstance(reply, Began):
                    rows.add(reply.index)
                elif isinstance(reply, Piece) and reply.finish is not None:
                    rows.discard(reply.index)
                    left -= 1
                yield reply
        finally:
            del self._rows[number]
            self._forget(number, cancel=left > 0)

    def close(self) -> None:
        """End the engine. Blocking."""
        if self._channel is not None:
            self._channel.close()

    # --- inside --------------------------------------------------------------------------------------
    async def _one(self, request: Request) -> Reply:
        number, inbox = self._send(request)
        reply: Reply | None = None
        try:
            reply = await inbox.get()
        finally:
            self._forget(number, cancel=reply is None)
        if isinstance(reply, Refused):
            raise _error(reply)
        return reply

    def _send(self, request: Request) -> tuple[int, asyncio.Queue[Reply]]:
        number = next(self._ids)
        inbox = self._inboxes[number] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        if self._channel is None:
            self._channel = self._connect(self._emitted)
        self._channel.send(_numbered(request, number))
        return number, inbox

    def _emitted(self, reply: Reply) -> None:
        """Take a reply from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._receive, reply)

    def _receive(self, reply: Reply) -> None:
        inbox = self._inboxes.get(reply.id)
        if inbox is not None:  # else nobody waits for it any more
            inbox.put_nowait(reply)

    def _forget(self, number: int, *, cancel: bool) -> None:
        del self._inboxes[number]
        if cancel and self._channel is not None:
            self._channel.send(Cancel(id=number))


def _numbered(request: Request, number: int) -> Request:
    return replace(request, id=number)


def _error(reply: Refused) -> ApiError:
    return ApiError(reply.status, reply.message, code=reply.code, param=reply.param)
