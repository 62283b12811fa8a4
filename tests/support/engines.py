"""A listener's client of an engine that runs in the test's own process, so that a test can look into it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from sidecar.config import Settings
from sidecar.engine.client import EngineClient
from sidecar.engine.control import Hold, Message
from sidecar.engine.messages import Request
from sidecar.engine.metrics import Meter
from sidecar.engine.thread import EngineThread
from sidecar.text.jobs import Jobs


class LocalChannel:
    """The engine's side of the seam without the process between."""

    pid = os.getpid()

    def __init__(self, settings: Settings, errors: list[BaseException]) -> None:
        self.thread = EngineThread(settings, Meter(), on_death=errors.append)
        self.receive: Callable[[Message], None] = lambda message: None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._jobs = Jobs(self.thread, settings, self._emit)

    def send(self, request: Request | Hold) -> None:
        self.loop = asyncio.get_running_loop()
        if isinstance(request, Hold):
            self.thread.hold(request.batch)
        else:
            self._jobs.take(request)

    def kill(self, reason: str) -> None:
        raise AssertionError(reason)

    async def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        self.thread.stop()
        self._jobs.close()

    def _emit(self, message: Message) -> None:
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.receive, message)


class LocalClient(EngineClient):
    """Its engine's ``thread`` can be looked at. ``errors``: what ended it."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.errors: list[BaseException] = []
        self.local = LocalChannel(settings or Settings(), self.errors)

        async def launch(receive: Callable[[Message], None], ended: Callable[[str], None]) -> LocalChannel:
            self.local.receive = receive
            return self.local

        super().__init__(launch)

    @property
    def thread(self) -> EngineThread:
        """The engine's thread."""
        return self.local.thread

    def _linger(self) -> None:
        """Stay: the next test goes on with it."""
