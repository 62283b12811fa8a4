"""``Watcher``: looks at the sidecar while a host is attached, and has it restarted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from host_api.connection import Connection, Event
from host_api.errors import HostError, StateDirError
from host_api.manager import Manager
from host_api.protocol.decision import Decision, HealthAnswer, decide
from host_api.protocol.lock import held

POLL = 0.1  # seconds between looks at the sidecar's lock
HEALTH = 5.0  # seconds between health checks while all is well


class Watcher:
    """One thread that notices a crash, a hang and an owner's death; restarts or adopts."""

    def __init__(
        self,
        manager: Manager,
        mutex: threading.RLock,
        emit: Callable[[Event], None],
        again: Callable[[], Connection],
    ) -> None:
        self.connection: Connection | None = None
        self._manager = manager
        self._mutex = mutex
        self._emit = emit
        self._again = again
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._mark: tuple[int, float] = (0, 0.0)

    def attached(self, connection: Connection | None) -> None:
        """Take ``connection`` for the one to watch; None: there is nothing to watch."""
        self.connection = connection
        self._mark = self._restart_mark()

    def start(self) -> None:
        """Begin to look; nothing when it has begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="mlx-sidecar-watch", daemon=True)
            self._thread.start()

    def stop(self, timeout: float) -> None:
        """End the thread, waiting for it up to ``timeout`` seconds."""
        self._closed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        self.connection = None

    def _restart_mark(self) -> tuple[int, float]:
        state = self._manager.restarts()
        return state.failures, state.last_failure

    def _watch(self) -> None:
        patience = self._manager.patience()
        next_health = time.monotonic() + HEALTH
        while not self._closed.wait(POLL):
            try:
                with self._mutex:
                    if self.connection is None or self._closed.is_set():
                        continue
                    if not held(self._manager.files.sidecar_lock):
                        self._gone()
                    elif time.monotonic() >= next_health:
                        seen = self._manager.observe(patience)
                        answer = seen.observation.answer
                        quiet = answer in (HealthAnswer.REFUSED, HealthAnswer.SILENT, HealthAnswer.FAILED)
                        next_health = time.monotonic() + (HEALTH / 10 if quiet else HEALTH)
                        if decide(seen.observation) is Decision.REPLACE:
                            self._restart("hung")
                        elif seen.record and seen.record.instance_id != self.connection.instance_id:
                            self._restart("replaced")
                        elif self._manager.adopt():
                            self._emit(Event(kind="adopted", connection=self.connection))
            except (HostError, StateDirError) as exc:
                self._emit(Event(kind="failed", detail=str(exc)))
                if getattr(exc, "permanent", True):
                    self.connection = None

    def _gone(self) -> None:
        crashed = self._manager.record_bytes() is not None or self._restart_mark() != self._mark
        if not crashed and held(self._manager.files.launch_lock):
            return  # someone is at it: look again
        if crashed:
            self._restart("crashed")
        else:
            self.connection = None
            self._manager.leave()
            self._emit(Event(kind="stopped"))

    def _restart(self, detail: str) -> None:
        self._emit(Event(kind="crashed", connection=self.connection, detail=detail))
        record, how = self._manager.ensure()
        self.attached(Connection.of(record, how, self._again))
        self._emit(Event(kind="restarted", connection=self.connection))
