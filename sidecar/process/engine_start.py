"""The listener's side of the engine process: its start, its end, and a spare that takes over after a death.

A spare has imported all that a model needs and waits; it holds neither the GPU nor ``engine.lock``. One is started with
the server, so that the first model loads sooner, and one beside a working engine, so that an answer goes on within
two seconds of a death; each takes about 100 MB, and none is kept where memory is short.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from sidecar.config import Settings
from sidecar.engine import machine
from sidecar.engine.control import Hold, Message, Start
from sidecar.engine.messages import VERSION, Request
from sidecar.engine.wire import Reader, WireError, encode
from sidecar.errors import ApiError
from sidecar.process.engine_settings import plain

log = logging.getLogger("sidecar.server")

_SPARE_AFTER = 5.0  # seconds an engine works before a spare is started beside it
_SPARE_AGAIN = 1.0  # the same after a death: what kills an engine often kills the next, and its start took 2 s more
_SPARE_ROOM = 2 << 30  # bytes that must be available for a spare
_END = 2.0  # seconds a process gets to end by itself
_BUFFER = 1 << 20


class Child(asyncio.Protocol):
    """One engine process and the connection to it. Until ``adopt`` it is a spare."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._reader = Reader()
        self._receive: Callable[[Message], None] = lambda message: None
        self._ended: Callable[[str], None] = lambda reason: None
        self._reason = ""
        self._end = asyncio.get_running_loop().create_future()
        self._on_close: Callable[[], None] = lambda: None

    def adopt(
        self, receive: Callable[[Message], None], ended: Callable[[str], None], on_close: Callable[[], None]
    ) -> None:
        """Make it the engine: its messages and its end go to these from now on."""
        self._receive, self._ended, self._on_close = receive, ended, on_close

    # --- Channel -------------------------------------------------------------------------------------
    def send(self, request: Request | Start | Hold) -> None:
        """Hand over a request; never blocks. Raises ApiError for one that can't be sent."""
        if self._transport is None or self._transport.is_closing():
            return
        try:
            self._transport.write(encode(request))
        except WireError as exc:
            text = f"The request has a number or a text that can't be passed on ({exc})."
            raise ApiError(400, text, code="invalid_value") from exc

    def kill(self, reason: str) -> None:
        """End it at once; ``reason`` is told with its death."""
        self._reason = self._reason or reason
        self.process.kill()

    async def close(self) -> None:
        """End it and wait for its end."""
        self._ended = lambda reason: None
        self._on_close()
        if self._transport is not None:
            self._transport.close()
        await asyncio.shield(self._end)

    # --- asyncio.Protocol ----------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand on what came."""
        try:
            for message in self._reader.feed(data):
                self._receive(message)
        except WireError as exc:
            self.kill(f"it sent what is no message ({exc})")

    def connection_lost(self, exc: Exception | None) -> None:
        """The process ended, or is about to."""
        self.lost = True
        self._task = asyncio.create_task(self._reap())

    async def _reap(self) -> None:
        waiting = asyncio.create_task(asyncio.to_thread(self.process.wait))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), _END)
        if not waiting.done():
            self.kill("it closed its connection")
        code = await waiting
        if not self._end.done():
            self._end.set_result(None)
        self._ended(self._reason or describe(code))


REASONS = {70: "an error on a thread of its own, see the log", 71: "out of memory: an allocation failed"}
"""What exit statuses of ``engine_child`` mean."""


def describe(code: int) -> str:
    """Return how a process ended, for people."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}" + (f" ({REASONS[code]})" if code in REASONS else "")


class Launcher:
    """Starts engine processes for one server. On the event loop's thread."""

    def __init__(self, settings: Settings) -> None:
        self._start = Start(version=VERSION, settings=plain(settings))
        self._spare: Child | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._again = False  # whether the engine before died

    async def __call__(self, receive: Callable[[Message], None], ended: Callable[[str], None]) -> Child:
        """Return an engine process, the spare if there is one. Raises OSError."""
        child, self._spare = self._spare, None
        if child is None or child.lost:
            child = await self._spawn()
        child.adopt(receive, ended, self._rest)
        self._spare_in(_SPARE_AGAIN if self._again else _SPARE_AFTER)
        self._again = True
        return child

    def prepare(self) -> None:
        """Start a spare now, unless memory is short."""
        self._spare_in(0)

    async def close(self) -> None:
        """End the spare."""
        self._closed = True
        self._rest()
        for task in list(self._tasks):
            await asyncio.wait({task})

    def _rest(self) -> None:
        """No engine, no spare."""
        self._again = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        spare, self._spare = self._spare, None
        if spare is not None:
            self._run(spare.close())

    def _spare_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, lambda: self._run(self._make_spare()))

    async def _make_spare(self) -> None:
        if self._closed or (self._spare is not None and not self._spare.lost):
            return
        if not await asyncio.to_thread(_room):
            log.info("memory is short: no spare engine is kept ready")
            return
        try:
            child = await self._spawn()
        except OSError as exc:
            log.warning("no spare engine can be started: %s", exc)
            return
        if self._closed or (self._spare is not None and not self._spare.lost):
            await child.close()
        else:
            self._spare = child

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _spawn(self) -> Child:
        process, ours = await asyncio.to_thread(_popen)
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        _, child = await loop.create_connection(lambda: Child(process), sock=ours)
        child.send(self._start)
        return child


def _room() -> bool:
    return machine.memory().available >= _SPARE_ROOM


def _popen() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start an engine process; return it and our end of the socket to it. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        for end in (ours, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        program = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "sidecar.entry"]
        number = theirs.fileno()
        command = [*program, "engine", "--fd", str(number)]
        try:
            return subprocess.Popen(command, pass_fds=(number,), stdin=subprocess.DEVNULL, stdout=2), ours
        except OSError:
            ours.close()
            raise
