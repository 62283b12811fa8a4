"""The listener's hold on the engine: sends requests, hands each its replies, starts the next engine after a death.

On the event loop's thread. What goes to which engine is decided in ``inflight``; how an engine is started, in
``process``, which gives ``launch``.

From the second death without progress between there is a wait before the next start (1, 2, 4 … up to 30 s, as the
ownership protocol has it for sidecars). After ``_MOST`` engines in a row that did not even come up nothing is tried any
more: ``failed`` says why, and the server leaves for its supervisor to judge.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from host_api.protocol.restarts import Backoff, jitter
from sidecar.engine.control import Hold, LogLine, Message, Pulse, Ready
from sidecar.engine.failed_loads import FailedLoads, error_of
from sidecar.engine.inflight import InFlight, Paused, Told
from sidecar.engine.messages import (
    LOAD_FAILED,
    Decide,
    Decided,
    Embed,
    Embedded,
    Finished,
    Generate,
    Load,
    Loaded,
    ModelInfo,
    Piece,
    Refused,
    Request,
    Shed,
    Tier,
    Tokenize,
    Tokenized,
    Unload,
)
from sidecar.errors import ApiError, LoadError

log = logging.getLogger("sidecar.server")

_MOST = 5
_LINGER = 5.0  # seconds an engine without a model stays, so that a swap doesn't start one anew
_REMEMBERED = 20  # deaths that /health tells


class Channel(Protocol):
    """A connection to an engine process."""

    pid: int

    def send(self, request: Request | Hold) -> None:
        """Hand over a request; never blocks. Raises ApiError for one that can't be sent."""

    def kill(self, reason: str) -> None:
        """End the engine at once; ``reason`` is told with its death."""

    async def close(self) -> None:
        """End the engine and wait for its end."""


class Launch(Protocol):
    """Starts an engine; ``receive`` gets its messages, ``ended`` why it died, both on the event loop's thread."""

    def __call__(
        self, receive: Callable[[Message], None], ended: Callable[[str], None]
    ) -> Coroutine[Any, Any, Channel]: ...


class EngineClient:
    """Requests in flight and who waits for them. ``on_lost``: a model that was loaded could not be loaded again."""

    def __init__(self, launch: Launch, *, metered: Callable[[str, tuple[float, ...]], None] | None = None) -> None:
        self._launch = launch
        self._metered = metered
        self._channel: Channel | None = None
        self._starting: asyncio.Task[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self.failed_loads = FailedLoads()
        self._flight = InFlight(self._lost, self.failed_loads.note)
        self._failures = 0  # deaths since the last progress
        self._up = False
        self._never_up = 0  # engines in a row that did not come up
        self._heard = 0.0  # when the engine last said something, or got something to do
        self._closed = False
        self._hold = Hold(batch=False)
        self.on_lost: Callable[[Path], None] = lambda path: None
        self.pulse = Pulse()
        self.failed: str | None = None
        self.deaths: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)
        self.death_count = 0

    @property
    def pid(self) -> int | None:
        """The process of the present engine, None without one."""
        return self._channel.pid if self._channel is not None else None

    def running(self, tier: Tier) -> int:
        """Return how many answers of a tier are being worked on."""
        return self._flight.running(tier)

    # --- what is asked -------------------------------------------------------------------------------
    async def load(self, path: Path) -> ModelInfo:
        """Load a model folder. Raises LoadError, or ApiError where the engine is the trouble."""
        self.failed_loads.check(str(path))
        try:
            reply = await self._one(Load(id=0, path=str(path)))
        except ApiError as exc:
            if exc.code == LOAD_FAILED:
                raise LoadError(exc.message) from exc
            raise
        assert isinstance(reply, Loaded)
        return reply.model

    async def unload(self, path: Path) -> None:
        """Let a model's memory go; what still runs on it ends with an error. With the last one goes the engine."""
        assert isinstance(await self._one(Unload(id=0, path=str(path))), Finished)

    async def shed(self) -> None:
        """Give up what only saves time."""
        if self._channel is not None:
            assert isinstance(await self._one(Shed(id=0)), Finished)

    def hold(self, batch: bool) -> None:
        """Let batch work wait, or go on; the engines to come are told as well."""
        self._hold = Hold(batch=batch)
        if self._channel is not None:
            self._channel.send(self._hold)

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

    async def decide(self, request: Decide) -> Decided:
        """Return the scores of questions' options. Raises ApiError."""
        reply = await self._one(request)
        assert isinstance(reply, Decided)
        return reply

    async def generate(self, request: Generate) -> AsyncGenerator[Told]:
        """Yield what answers a request: its ``Prepared``, then what its choices give until each has finished.

        A ``Paused`` among them says that the answer goes on with another engine. Leaving the iterator cancels what
        still runs. Raises ApiError.
        """
        number, inbox = self._add(request)
        left = request.choices
        try:
            while left:
                reply = await inbox.get()
                if isinstance(reply, Refused):
                    raise error_of(reply)
                left -= isinstance(reply, Piece) and reply.finish is not None
                yield reply
        finally:
            self._forget(number)

    async def close(self) -> None:
        """End the engine and wait for its end."""
        self._closed = True
        self._stop_lingering()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def check(self, stall_timeout: float) -> None:
        """Kill an engine that has been at one piece of work, or silent with work to do, for too long."""
        if self._channel is None or not stall_timeout or not self._flight.calls:
            return
        silent = time.monotonic() - self._heard
        if max(silent, self.pulse.stalled) > stall_timeout:
            took = max(silent, self.pulse.stalled)
            self._channel.kill(f"it was at one piece of work for {took:.0f} s")

    def describe(self) -> str:
        """Return where every request in flight stands, a line each: for whoever looks for a stall."""
        silent = time.monotonic() - self._heard
        head = f"engine {self.pid}, heard {silent:.1f} s ago, failures {self._failures}, starting {self._starting}"
        return "\n".join([f"{head}, {self.pulse}", *self._flight.describe()])

    # --- requests ------------------------------------------------------------------------------------
    async def _one(self, request: Request) -> Told:
        number, inbox = self._add(request)
        try:
            reply = await inbox.get()
            while isinstance(reply, Paused):
                reply = await inbox.get()
        finally:
            self._forget(number)
        if isinstance(reply, Refused):
            raise error_of(reply)
        return reply

    def _add(self, request: Request) -> tuple[int, asyncio.Queue[Told]]:
        if self.failed is not None:
            raise ApiError(503, f"The engine does not come up ({self.failed}).", code="engine_failed", retry_after=5)
        inbox: asyncio.Queue[Told] = asyncio.Queue()
        number = self._flight.add(request, inbox.put_nowait)
        self._flush()
        return number, inbox

    def _forget(self, number: int) -> None:
        cancel = self._flight.forget(number)
        if cancel is not None and self._channel is not None:
            self._channel.send(cancel)
        self._flush()

    def _flush(self) -> None:
        """Send what can be sent; start an engine where there is none."""
        if self._closed or not self._flight.calls:
            return
        self._stop_lingering()
        if self._channel is None:
            if self._starting is None:
                self._starting = asyncio.create_task(self._start())
            return
        for request in self._flight.to_send():
            self._heard = time.monotonic()
            try:
                self._channel.send(request)
            except ApiError as exc:
                refused = Refused(id=request.id, status=exc.status_code, message=exc.message, code=exc.code)
                self._flight.take(refused)
                asyncio.get_running_loop().call_soon(self._flush)  # others may have waited for it
            if (patience := self._flight.patience(request.id)) is not None:
                asyncio.get_running_loop().call_later(patience, self._go_on_without, request.id, self.death_count)

    def _go_on_without(self, number: int, deaths: int) -> None:
        if deaths == self.death_count:
            self._flight.go_on_without(number)
            self._flush()

    # --- engines -------------------------------------------------------------------------------------
    async def _start(self) -> None:
        try:
            wait = Backoff().delay(self._failures, jitter())
            if wait:
                log.warning("the next engine is started in %.1f s", wait)
                await asyncio.sleep(wait)
            self._channel = await self._launch(self._receive, self._ended)
            if self._hold.batch:
                self._channel.send(self._hold)
            self._heard = time.monotonic()
        except OSError as exc:
            self._note_death(f"it can't be started ({exc})")
        finally:
            self._starting = None
        self._flush()

    def _receive(self, message: Message) -> None:
        self._heard = time.monotonic()
        if isinstance(message, Pulse):
            self.pulse = message
            for name, args in message.metered if self._metered is not None else ():
                self._metered(name, args)  # type: ignore[misc]
        elif isinstance(message, LogLine):
            logging.getLogger(message.name).log(message.level, "%s", message.text)
        elif isinstance(message, Ready):
            self._never_up, self._up = 0, True
        else:
            if isinstance(message, Piece | Loaded | Embedded | Tokenized | Decided):
                self._failures = 0
            if isinstance(message, Loaded):
                self.failed_loads.loaded(message.model.path)
            self._flight.take(message)  # type: ignore[arg-type]
            if isinstance(message, Finished) and not (self._flight.models or self._flight.calls):
                self._linger()
            self._flush()

    def _ended(self, reason: str) -> None:
        self._channel = None
        self.pulse = Pulse()
        if self._closed:
            return
        up, self._up = self._up, False
        self._note_death(reason)
        self._flight.died(reason, up=up)
        self._flush()

    def _note_death(self, reason: str) -> None:
        self._failures += 1
        self._never_up += 1
        self.death_count += 1
        self.deaths.append({"at": round(time.time(), 3), "reason": reason})
        log.error("the engine died: %s", reason)
        if self._never_up >= _MOST:
            self.failed = reason
            self._flight.fail_all(reason)

    def _lost(self, path: str) -> None:
        log.error("%s could not be loaded again", path)
        self.on_lost(Path(path))

    def _linger(self) -> None:
        self._stop_lingering()
        self._lingering = asyncio.get_running_loop().call_later(_LINGER, self._leave)

    def _stop_lingering(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _leave(self) -> None:
        """Let an engine without models go: all of its memory comes back."""
        self._lingering = None
        if self._flight.calls or self._flight.models or self._channel is None:
            return
        channel, self._channel = self._channel, None
        self.pulse = Pulse()
        self._leaving = asyncio.create_task(channel.close())
