"""``SidecarHost``: what a program uses to have a sidecar for as long as it wants one."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from host_api.config import HostConfig
from host_api.connection import Connection, Event, Status
from host_api.errors import HostError
from host_api.manager import Manager
from host_api.observe import status
from host_api.watcher import Watcher


class SidecarHost:
    """A host's hold on the sidecar; a context manager, plain and async. Thread-safe.

    Entering ensures that it runs; leaving only lets go of it. A crash meanwhile is followed by a restart.
    """

    def __init__(self, config: HostConfig | None = None, *, supervise: bool = True) -> None:
        self.config = config or HostConfig()
        self._manager: Manager | None = None
        self._supervise = supervise
        self._mutex = threading.RLock()
        self._closed = threading.Event()
        self._watcher: Watcher | None = None
        self._queues: list[queue.SimpleQueue[Event | None]] = []

    # --- use ------------------------------------------------------------------------------------------
    def ensure_running(self) -> Connection:
        """Attach to the sidecar, starting it where there is none. Raises HostError or StateDirError."""
        with self._mutex:
            self._closed.clear()
            record, how = self._control().ensure()
            known = self._watcher.connection if self._watcher else None
            if known is None or known.instance_id != record.instance_id:
                known = Connection.of(record, how, self._reconnect)
                self._emit(Event(kind="ready", connection=known))
            watcher = self._watcher or Watcher(self._control(), self._mutex, self._emit, self._reconnect)
            self._watcher = watcher
            watcher.attached(known)
            if self._supervise:
                watcher.start()
            return known

    def status(self) -> Status:
        """What there is now; starts and changes nothing. Raises StateDirError."""
        return status(self.config)

    def stop(self, *, force: bool = False) -> bool:
        """Stop the sidecar; False when none ran. Raises InUse when others use it and ``force`` is off."""
        with self._mutex:
            was = self._control().stop(force=force)
            if self._watcher is not None:
                self._watcher.attached(None)
            self._emit(Event(kind="stopped"))
            return was

    def release(self) -> None:
        """Let go: the sidecar stays for its other hosts, or for its grace time. Idempotent."""
        self._closed.set()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop(self.config.timeout)
        with self._mutex:
            if self._manager is not None:
                self._manager.leave()
            for waiting in self._queues:
                waiting.put(None)
            self._queues.clear()

    def events(self) -> Iterator[Event]:
        """Events from now on, until ``release``. Each call gets its own; nothing is lost between reads."""
        mine: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        with self._mutex:
            self._queues.append(mine)
        return iter(mine.get, None)

    def __enter__(self) -> Self:
        self.ensure_running()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        import asyncio

        await asyncio.to_thread(self.ensure_running)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.release)

    @property
    def connection(self) -> Connection | None:
        """The last connection, None before the first and after the end."""
        return self._watcher.connection if self._watcher else None

    # --- inside ---------------------------------------------------------------------------------------
    def _control(self) -> Manager:
        if self._manager is None:
            self._manager = Manager(self.config)
        return self._manager

    def _reconnect(self) -> Connection:
        if self._closed.is_set():
            raise HostError("the sidecar is gone and this host let go of it; call ensure_running again")
        return self.ensure_running()

    def _emit(self, event: Event) -> None:
        for waiting in self._queues:
            waiting.put(event)


def sidecar_lifespan(config: HostConfig | None = None) -> Callable[[Any], Any]:
    """A FastAPI/Starlette lifespan: ``app.state.sidecar`` is the SidecarHost while the application runs."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with SidecarHost(config) as host:
            app.state.sidecar = host
            yield

    return lifespan
