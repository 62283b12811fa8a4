"""``SidecarHost``: what a program uses to have a sidecar for as long as it wants one."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self

from host_api.config import HostConfig
from host_api.connection import Connection, Event, Status
from host_api.errors import HostError, TimedOut
from host_api.manager import Manager
from host_api.observe import status
from host_api.watcher import Signal, Watcher

_JOIN = 0.1  # seconds that letting go waits for the thread that looks

_hosts: weakref.WeakSet[SidecarHost] = weakref.WeakSet()


class _Session:
    """From a first ensure to a release: one manager, one watcher, one mutex between them."""

    def __init__(self, host: SidecarHost) -> None:
        self.mutex = threading.RLock()
        self.closed = Signal()
        self.manager = Manager(host.config)
        self.watcher = Watcher(self.manager, self.mutex, self.closed, host._emit, host._reconnect)

    def close(self) -> None:
        """Let go at once, whatever the watcher is doing; what it starts meanwhile leaves after its grace time."""
        self.closed.set()
        self.manager.let_go()
        if self.watcher.join(_JOIN):
            self.closed.close()


class SidecarHost:
    """A host's hold on the sidecar; a context manager, plain and async. Thread-safe.

    Entering ensures that it runs; leaving only lets go of it, within a fraction of a second. A crash meanwhile is
    followed by a restart. After a fork the child is a host of its own that holds nothing yet.
    """

    def __init__(self, config: HostConfig | None = None, *, supervise: bool = True) -> None:
        self.config = config or HostConfig()
        self._supervise = supervise
        self._start_anew()
        _hosts.add(self)

    def _start_anew(self) -> None:
        self._guard = threading.Lock()
        self._session: _Session | None = None
        self._queues: list[queue.SimpleQueue[Event | None]] = []

    # --- use ------------------------------------------------------------------------------------------
    def ensure_running(self) -> Connection:
        """Attach to the sidecar, starting it where there is none. Raises HostError or StateDirError."""
        with self._control() as session:
            watcher = session.watcher
            known = watcher.connection
            try:
                record, how = session.manager.ensure(session.closed, known.instance_id if known else "")
            except BaseException:
                if watcher.connection is None:
                    session.manager.drop()
                raise
            if known is None or known.instance_id != record.instance_id:
                known = Connection.of(record, how, self._reconnect)
                self._emit(Event(kind="ready", connection=known))
            watcher.attached(known)
            if self._supervise:
                watcher.start()
            return known

    def status(self) -> Status:
        """Return what there is now; starts and changes nothing. Raises StateDirError."""
        return status(self.config)

    def stop(self, *, force: bool = False) -> bool:
        """Stop the sidecar; False when none ran. Raises InUse when others use it and ``force`` is off."""
        with self._control() as session:
            was = session.manager.stop(session.closed, force=force)
            session.watcher.attached(None)
            self._emit(Event(kind="stopped"))
            return was

    def release(self) -> None:
        """Let go: the sidecar stays for its other hosts, or for its grace time. Idempotent, never waits long."""
        with self._guard:
            session, self._session = self._session, None
            queues, self._queues = self._queues, []
        if session is not None:
            session.close()
        for waiting in queues:
            waiting.put(None)

    def events(self) -> Iterator[Event]:
        """Return the events from now on, until ``release``. Each call gets its own; none is lost between reads."""
        mine: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        with self._guard:
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
        """The last connection, None before the first and after the end. Never waits."""
        session = self._session
        return session.watcher.connection if session else None

    # --- inside ---------------------------------------------------------------------------------------
    @contextmanager
    def _control(self) -> Iterator[_Session]:
        """The session with its mutex held. Raises TimedOut while a restart takes longer than the caller waits."""
        with self._guard:
            session = self._session = self._session or _Session(self)
        if not session.mutex.acquire(timeout=self.config.timeout):
            raise TimedOut("the sidecar is being restarted and that takes too long; try again")
        try:
            yield session
        finally:
            session.mutex.release()

    def _reconnect(self) -> Connection:
        if self._session is None:
            raise HostError("the sidecar is gone and this host let go of it; call ensure_running again")
        return self.ensure_running()

    def _emit(self, event: Event) -> None:
        for waiting in list(self._queues):
            waiting.put(event)


def _after_fork() -> None:
    """A fork copies the mutexes as they were, and the parent's identity: the child begins with nothing."""
    for host in list(_hosts):
        host._start_anew()


os.register_at_fork(after_in_child=_after_fork)


def sidecar_lifespan(config: HostConfig | None = None) -> Callable[[Any], Any]:
    """Return a FastAPI/Starlette lifespan: ``app.state.sidecar`` is the SidecarHost while the application runs."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with SidecarHost(config) as host:
            app.state.sidecar = host
            yield

    return lifespan
