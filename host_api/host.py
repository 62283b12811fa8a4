"""``SidecarHost``: what a program uses to have a sidecar for as long as it wants one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from host_api.config import HostConfig
from host_api.errors import HostError, StateDirError
from host_api.manager import Supervisor
from host_api.protocol.lock import held
from host_api.protocol.probe import health_of, probe
from host_api.protocol.record import Decision, LockState, Probe, Record, decide, parse_record

if TYPE_CHECKING:
    import httpx

POLL = 0.1  # seconds between looks at the sidecar's lock
HEALTH = 5.0  # seconds between health checks while all is well


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A running sidecar. ``origin``: ``spawned`` by this host, or ``attached`` to."""

    base_url: str
    token: str | None = field(repr=False)
    pid: int
    instance_id: str
    origin: str
    version: str
    _again: Callable[[], Connection] | None = field(default=None, repr=False, compare=False)

    @property
    def headers(self) -> dict[str, str]:
        """The authorization header."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def client(self, **kwargs: Any) -> httpx.Client:
        """An httpx client for it that follows the sidecar through one restart between requests."""
        from host_api.client import client

        return client(self, self._again, **kwargs)

    def async_client(self, **kwargs: Any) -> httpx.AsyncClient:
        """The same, asynchronous."""
        from host_api.client import async_client

        return async_client(self, self._again, **kwargs)

    def to_json(self, *, token: bool = True) -> dict[str, Any]:
        """For programs that print it."""
        document = {name: getattr(self, name) for name in ("base_url", "pid", "instance_id", "origin", "version")}
        return document | ({"token": self.token} if token else {})


@dataclass(frozen=True, kw_only=True)
class Status:
    """A look at a state directory. ``state``: stopped, starting, running, draining, failed, hung or foreign."""

    state: str
    pid: int | None = None
    base_url: str | None = None
    instance_id: str | None = None
    version: str | None = None
    managed: bool | None = None
    owner: dict[str, Any] | None = None
    health: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to the sidecar.

    ``kind``: ready, crashed, restarted, stopped, adopted or failed (``detail`` is then the error's message).
    """

    kind: str
    connection: Connection | None = None
    detail: str = ""


class SidecarHost:
    """A host's hold on the sidecar; a context manager, plain and async. Thread-safe.

    Entering ensures that it runs; leaving only lets go of it. A crash meanwhile is followed by a restart.
    """

    def __init__(self, config: HostConfig | None = None, *, supervise: bool = True) -> None:
        self.config = config or HostConfig()
        self._supervisor: Supervisor | None = None
        self._supervise = supervise
        self._mutex = threading.RLock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._mark: tuple[int, float] = (0, 0.0)
        self._queues: list[queue.SimpleQueue[Event | None]] = []

    # --- use ------------------------------------------------------------------------------------------
    def ensure_running(self) -> Connection:
        """Attach to the sidecar, starting it where there is none. Raises HostError or StateDirError."""
        with self._mutex:
            self._closed.clear()
            supervisor = self._control()
            record, origin = supervisor.ensure()
            known = self._connection
            if known is None or known.instance_id != record.instance_id:
                known = self._connect(record, origin)
                self._emit(Event(kind="ready", connection=known))
            self._mark = self._restart_mark()
            if self._supervise and self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="mlx-sidecar-watch", daemon=True)
                self._thread.start()
            return known

    def status(self) -> Status:
        """What there is now; starts and changes nothing. Raises StateDirError."""
        return status(self.config)

    def stop(self, *, force: bool = False) -> bool:
        """Stop the sidecar; False when none ran. Raises InUse when others use it and ``force`` is off."""
        with self._mutex:
            was = self._control().stop(force=force)
            self._connection = None
            self._emit(Event(kind="stopped"))
            return was

    def release(self) -> None:
        """Let go: the sidecar stays for its other hosts, or for its grace time. Idempotent."""
        self._closed.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(self.config.timeout)
        with self._mutex:
            if self._supervisor is not None:
                self._supervisor.leave()
            self._connection = None
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
        return self._connection

    # --- inside ---------------------------------------------------------------------------------------
    def _control(self) -> Supervisor:
        if self._supervisor is None:
            self._supervisor = Supervisor(self.config)
        return self._supervisor

    def _connect(self, record: Record, origin: str) -> Connection:
        self._connection = Connection(
            base_url=record.base_url,
            token=record.token,
            pid=record.pid,
            instance_id=record.instance_id,
            origin=origin,
            version=record.version,
            _again=self._reconnect,
        )
        return self._connection

    def _reconnect(self) -> Connection:
        if self._closed.is_set():
            raise HostError("the sidecar is gone and this host let go of it; call ensure_running again")
        return self.ensure_running()

    def _emit(self, event: Event) -> None:
        for waiting in self._queues:
            waiting.put(event)

    def _restart_mark(self) -> tuple[int, float]:
        state = self._control().restarts()
        return state.failures, state.last_failure

    def _watch(self) -> None:
        """Notice a crash, a hang, an owner's death; restart or adopt."""
        supervisor = self._control()
        patience = supervisor.patience()
        next_health = time.monotonic() + HEALTH
        while not self._closed.wait(POLL):
            try:
                with self._mutex:
                    if self._connection is None or self._closed.is_set():
                        continue
                    if not held(supervisor.files.sidecar_lock):
                        self._gone(supervisor)
                    elif time.monotonic() >= next_health:
                        seen = supervisor.observe(patience)
                        quiet = seen.observation.probe in (Probe.REFUSED, Probe.SILENT, Probe.FAILED)
                        next_health = time.monotonic() + (HEALTH / 10 if quiet else HEALTH)
                        if decide(seen.observation) is Decision.REPLACE:
                            self._restart("hung")
                        elif seen.record and seen.record.instance_id != self._connection.instance_id:
                            self._restart("replaced")
                        elif supervisor.adopt():
                            self._emit(Event(kind="adopted", connection=self._connection))
            except (HostError, StateDirError) as exc:
                self._emit(Event(kind="failed", detail=str(exc)))
                if getattr(exc, "permanent", True):
                    self._connection = None

    def _gone(self, supervisor: Supervisor) -> None:
        crashed = supervisor.record_bytes() is not None or self._restart_mark() != self._mark
        if not crashed and held(supervisor.files.launch_lock):
            return  # someone is at it: look again
        if crashed:
            self._restart("crashed")
        else:
            self._connection = None
            supervisor.leave()
            self._emit(Event(kind="stopped"))

    def _restart(self, detail: str) -> None:
        self._emit(Event(kind="crashed", connection=self._connection, detail=detail))
        record, origin = self._control().ensure()
        self._mark = self._restart_mark()
        self._emit(Event(kind="restarted", connection=self._connect(record, origin)))


def status(config: HostConfig) -> Status:
    """What there is in the configured state directory. Raises StateDirError."""
    supervisor = Supervisor(config)
    seen = supervisor.observe(supervisor.patience())
    obs, record = seen.observation, seen.record
    if obs.lock is LockState.FREE:
        return Status(state="stopped")
    if record is None:
        return Status(state="starting" if obs.record != "unknown_schema" else "foreign")
    state = {Probe.ECHO: "running", Probe.DRAINING: "draining", Probe.FAILED: "failed", Probe.OTHER: "foreign"}
    health = None
    if obs.probe in (Probe.ECHO, Probe.DRAINING, Probe.FAILED):
        try:
            health = health_of(record)
        except (OSError, ValueError):
            health = None
    return Status(
        state=state.get(obs.probe, "hung"),
        pid=record.pid,
        base_url=record.base_url,
        instance_id=record.instance_id,
        version=record.version,
        managed=record.managed,
        owner=record.owner.to_json() if record.owner else None,
        health=health,
    )


def current(config: HostConfig) -> Connection | None:
    """The running sidecar without becoming its host, or None. For one-off tools."""
    record = parse_record(Supervisor(config).record_bytes()).record
    if record is None or probe(record) is not Probe.ECHO:
        return None
    return Connection(
        base_url=record.base_url,
        token=record.token,
        pid=record.pid,
        instance_id=record.instance_id,
        origin="attached",
        version=record.version,
    )


def sidecar_lifespan(config: HostConfig | None = None) -> Callable[[Any], Any]:
    """A FastAPI/Starlette lifespan: ``app.state.sidecar`` is the SidecarHost while the application runs."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with SidecarHost(config) as host:
            app.state.sidecar = host
            yield

    return lifespan
