"""``Watcher``: looks at the sidecar for as long as a host is attached, and has it restarted.

Theory of operation
===================
One thread turns the crank of a machine whose goal is WATCH. While all is well it sleeps until the sidecar's process
ends (a pidfd on Linux, a kqueue on macOS) or a second has passed, whichever is first; then it looks at the lock and the
record, and every fifth second at the address. A death is so noticed within a millisecond, and an idle host wakes once a
second.

Nothing ends it but its host: whatever a look or a restart runs into, an exception of ours included, is an event
``failed``, told once, and the next look is a second later. It rests (``stopped``) after a clean end, because someone
wanted that, and after giving up (``failed``) until the program asks again or another program starts a sidecar.

The thread and ``ensure_running`` share a manager, by a mutex that the thread holds only while it has a hold on
launch.lock or a child, and during a turn. ``stop`` doesn't wait for it: it takes the manager's locks away and leaves
the thread to find that out.

Timeline, seconds: 0.000 SIGKILL hits the sidecar; 0.000 the pidfd wakes the thread, the lock is free or will be in a
moment (it looks each 10 ms for that); 0.001 event ``crashed``; 0.002 launch.lock taken, a new one spawned; 0.6 it
answers; event ``restarted`` with the new connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from host_api.connection import Connection, Event
from host_api.manager import Manager
from host_api.protocol.decision import Identity
from host_api.protocol.identity import identify
from host_api.protocol.lock import held
from host_api.protocol.states import LOOK, Action, Goal, Phase, State
from host_api.protocol.states import watch as begin_watch

log = logging.getLogger("host_api.watcher")

DYING = 2.0  # seconds a process that has ended may take to let go of its lock, before it is looked at anyway


class Signal:
    """An event that also wakes a wait on file descriptors; never reset."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._read, self._write = os.pipe()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._event.is_set()

    def set(self) -> None:
        """Set it: every wait ends."""
        self._event.set()
        with contextlib.suppress(OSError):
            os.write(self._write, b"x")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, ``timeout`` seconds at most; returns whether it is."""
        return self._event.wait(timeout)

    def wait_for_end(self, pid: int, timeout: float) -> bool:
        """Wait until the process ``pid`` has ended, it is set, or ``timeout`` seconds have passed; whether it ended."""
        if sys.platform == "darwin":
            return self._by_kqueue(pid, timeout)
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        except (OSError, AttributeError):  # too old a kernel, or too many open files: the next look will tell
            self.wait(timeout)
            return False
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.register(self._read, select.POLLIN)
            return any(ready == fd for ready, _ in poll.poll(timeout * 1000))
        finally:
            os.close(fd)

    def _by_kqueue(self, pid: int, timeout: float) -> bool:
        bsd: Any = select  # its BSD half isn't in the types of other platforms
        queue = bsd.kqueue()
        try:
            wants = [
                bsd.kevent(self._read, bsd.KQ_FILTER_READ, bsd.KQ_EV_ADD),
                bsd.kevent(pid, bsd.KQ_FILTER_PROC, bsd.KQ_EV_ADD | bsd.KQ_EV_ONESHOT, bsd.KQ_NOTE_EXIT),
            ]
            return any(event.filter == bsd.KQ_FILTER_PROC for event in queue.control(wants, 2, timeout))
        except ProcessLookupError:
            return True
        finally:
            queue.close()

    def close(self) -> None:
        """Close the pipe; after the last wait."""
        for fd in (self._read, self._write):
            with contextlib.suppress(OSError):
                os.close(fd)


class Watcher:
    """The thread that looks. ``connection`` is the sidecar it knows, None after an end or a failure."""

    def __init__(
        self,
        manager: Manager,
        mutex: threading.RLock,
        closed: Signal,
        emit: Callable[[Event], None],
        again: Callable[[], Connection],
    ) -> None:
        self.connection: Connection | None = None
        self._manager = manager
        self._mutex = mutex
        self._closed = closed
        self._emit = emit
        self._again = again
        self._thread: threading.Thread | None = None
        self._state: State | None = None
        self._told = ""

    def attached(self, connection: Connection | None) -> None:
        """Take ``connection`` for the one to watch; None: there is nothing to watch. Call with the mutex held."""
        known, self.connection = self.connection, connection
        if connection is None:
            self._state = None
        elif known != connection or self._state is None or self._state.phase is not Phase.ATTACHED:
            restarts = self._manager.last.seen.restarts
            self._state = begin_watch(self._manager.config.policy(), time.monotonic(), connection.instance_id, restarts)

    def start(self) -> None:
        """Begin to look; nothing when it has begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mlx-sidecar-watch", daemon=True)
            self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; whether it came within ``timeout`` seconds."""
        if self._thread is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        late = 0.0
        while not self._closed.is_set():
            pause = LOOK
            try:
                pause = self._turns(late)
            except Exception as exc:  # nothing ends supervision but its host
                log.exception("the watcher ran into something it doesn't know")
                self._tell_failure(f"{type(exc).__name__}: {exc}")
            began = time.monotonic()
            self._wait(pause)
            late = max(0.0, time.monotonic() - began - pause)
        self._manager.let_go()

    def _turns(self, late: float) -> float:
        """Look, and go on for as long as there is something in hand; returns seconds until the next look."""
        with self._mutex:
            while self._state is not None and not self._closed.is_set():
                self._state, actions = self._manager.turn(self._state, late)
                for action in actions:
                    if action.kind == "event":
                        self._tell(action)
                if self._manager.adopted:
                    self._manager.adopted = False
                    self._emit(Event(kind="adopted", connection=self.connection))
                busy = self._state.launch or self._state.phase in (Phase.STARTING, Phase.ENDING, Phase.KILLING)
                if not busy and self._state.pause > 0:
                    return self._state.pause
                began = time.monotonic()
                self._closed.wait(self._state.pause)
                late = max(0.0, time.monotonic() - began - self._state.pause)
        return LOOK

    def _wait(self, seconds: float) -> None:
        record, state = self._manager.last.record, self._state
        if state is None or state.phase is not Phase.ATTACHED or record is None:
            self._closed.wait(seconds)
            return
        if identify(record.pid, record.start_token, record.namespace) is Identity.UNKNOWN:
            self._closed.wait(seconds)
        elif self._closed.wait_for_end(record.pid, seconds):
            end = time.monotonic() + DYING
            while not self._closed.wait(0.01) and time.monotonic() < end:
                with contextlib.suppress(Exception):
                    if not held(self._manager.files.sidecar_lock):
                        return

    def _tell(self, action: Action) -> None:
        if action.word == "restarted" and self._manager.last.record is not None:
            self.connection = Connection.of(self._manager.last.record, action.detail, self._again)
            self._manager.remember_place()
            self._emit(Event(kind="restarted", connection=self.connection))
        elif action.word == "crashed":
            self._emit(Event(kind="crashed", connection=self.connection, detail=action.detail))
        elif action.word == "stopped":
            self.connection = None
            self._emit(Event(kind="stopped"))
        elif action.word == "failed":
            outcome, _, reason = action.detail.partition(":")
            self._told = ""
            self._tell_failure(str(self._manager.error_of(outcome, reason)))

    def _tell_failure(self, text: str) -> None:
        if text != self._told:
            self._told = text
            gone = self._state is None or self._state.phase is not Phase.ATTACHED
            if gone:
                self.connection = None
            self._emit(Event(kind="failed", detail=text))

    @property
    def goal(self) -> Goal | None:
        """What it does now; None: it rests."""
        return self._state.goal if self._state is not None else None
