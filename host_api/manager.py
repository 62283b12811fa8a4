"""The driver of the machine: holds a host's locks, looks, performs. Decides nothing.

Theory of operation
===================
``Manager`` owns what one host holds in a state directory: a hold on ``hosts.lock``, at times ``launch.lock``, and the
child it started. ``run`` turns the crank of ``protocol/machine.py``: bring the locks to what the state wants, look,
step, perform, wait. Each attempt at a lock is one ``flock`` that never blocks, each question to the sidecar ends after
``probe_timeout``, and each wait ends when ``cancel`` is set: nothing here outlasts a host's wish to let go.

Whatever fails in between (a full disk, too many open files, a directory that is gone) becomes ``Seen.fault``: an
ensure or a stop ends with it, a watch says it and looks again a second later.

A warm ``ensure`` is one turn: hosts.lock is held already (two ``stat``), the record is read, the address asked, the
PID's start token compared, sidecar.lock tried shared: 0.4 ms together. A cold one, in milliseconds: 0 hosts.lock and
launch.lock taken, record absent, lock free -> spawn; then a look each 10 to 50 ms; about 600 the sidecar has bound its
port and published -> one look more finds the echo, and launch.lock is let go.

Only one thread may run a manager at a time; ``let_go`` may be called from any other, at any moment.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from host_api import process
from host_api.config import HostConfig
from host_api.errors import Conflict, HostError, InUse, LaunchFailed, StateDirError, TimedOut
from host_api.observe import Look, Looker, explain
from host_api.process import Child
from host_api.protocol import identity, machine, restarts, state_dir
from host_api.protocol.decision import PERMANENT
from host_api.protocol.folders import Lease
from host_api.protocol.lock import FileLock, held
from host_api.protocol.record import Owner, Record, encode_record, parse_record
from host_api.protocol.states import Action, Goal, Hold, Launch, Seen, State
from host_api.protocol.states import ensure as begin_ensure
from host_api.protocol.states import stop as begin_stop


class Cancel(Protocol):
    """What ends a wait: ``threading.Event``, and what is like it."""

    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class Manager:
    """One host's locks, its child, and its eyes."""

    def __init__(self, config: HostConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.files = state_dir.Files(config.state_dir)
        self.looker = Looker(config, self.files)
        self.last = Look(Seen())
        self._place: object = None  # of the directory and the lock that were attached to
        self.adopted = False  # whether this host was just written into the record
        self._clock = clock
        self._me: Owner | None = None
        self._child: Child | None = None
        self._unrunnable = ""
        self._guard = threading.Lock()  # around the locks: let_go may come at any moment
        self._gone = False
        self._hosts: FileLock | None = None
        self._hold = Hold.NONE
        self._launch: FileLock | None = None
        self._lease = Lease(self.files.root, config.launch.lends())

    @property
    def me(self) -> Owner:
        """This process, as an owner in a record. Raises StateDirError."""
        if self._me is None:
            self._me = Owner(
                kind=self.config.kind,
                pid=os.getpid(),
                start_token=identity.own_token(),
                namespace=identity.own_namespace(),
            )
        return self._me

    # --- what a host asks for -----------------------------------------------------------------------------
    def ensure(self, cancel: Cancel, known: str = "") -> tuple[Record, str]:
        """Return the running sidecar's record, and ``spawned`` or ``attached``. Raises HostError, StateDirError."""
        state = self.run(begin_ensure(self.config.policy(), self._clock(), known), cancel)
        record = self.last.record
        if state.outcome in ("attached", "spawned") and record is not None:
            self.remember_place()
            return record, state.outcome
        raise self.error(state)

    def remember_place(self) -> None:
        """Take the state directory and the lock file of now for the sidecar's."""
        self._place = self._places()

    def _places(self) -> object:
        # Lock files are never unlinked by anyone who keeps the protocol, so one that is gone was lost like a directory.
        return state_dir.place_of(self.files.root), state_dir.place_of(self.files.sidecar_lock)

    def stop(self, cancel: Cancel, *, force: bool) -> bool:
        """Stop the sidecar and leave; False when none ran. Raises InUse, Conflict, TimedOut, StateDirError."""
        state_dir.check(self.files.root)
        if state_dir.place_of(self.files.root) is None:
            return False
        begun = begin_stop(self.config.policy(), self._clock(), force=force, joined=self._hold is Hold.SHARED)
        state = self.run(begun, cancel)
        if state.outcome in ("stopped", "absent"):
            return state.outcome == "stopped"
        raise self.error(state)

    def run(self, state: State, cancel: Cancel) -> State:
        """Turn the crank until there is an outcome. Raises HostError when it is cancelled."""
        late = 0.0
        while True:
            state, _ = self.turn(state, late)
            if state.outcome:
                self._bring(state)
                return state
            began = self._clock()
            if cancel.wait(state.pause) if state.pause else cancel.is_set():
                self.let_go()
                raise HostError("this host let go of the sidecar meanwhile; call ensure_running again")
            late = max(0.0, self._clock() - began - state.pause)

    def turn(self, state: State, late: float) -> tuple[State, tuple[Action, ...]]:
        """Look once, step once, perform; an action that fails is the fault of one more step."""
        seen = self.look(state, late)
        state, actions = machine.step(state, seen, self._clock())
        for action in actions:
            try:
                self._perform(action)
            except (StateDirError, OSError) as exc:
                state, more = machine.step(state, seen._replace(fault=_words(self.files.root, exc)), self._clock())
                actions = (*(a for a in actions if a.kind == "event"), *more)
                break
        self._give_up(state)
        return state, actions

    def _give_up(self, state: State) -> None:
        """Let go of launch.lock at once where it isn't wanted any more: others wait for it while this host pauses."""
        if not state.launch:
            with self._guard:
                self._drop_launch()

    # --- looking ------------------------------------------------------------------------------------------
    def look(self, state: State, late: float = 0.0) -> Seen:
        """Bring the locks to what ``state`` wants, one attempt each, and look."""
        seen = Seen(wall=time.time(), jitter=restarts.jitter(), lag=late)
        try:
            launch = self._bring(state)
            known = state.instance
            self.last = self.looker.look(asked=state.ask, known=known, owner=state.goal is Goal.WATCH)
        except (StateDirError, OSError) as exc:
            return seen._replace(fault=_words(self.files.root, exc))
        moved = self._place is not None and self._places() != self._place
        seen = self.last.seen._replace(
            wall=seen.wall, jitter=seen.jitter, lag=late, hosts=self._hold, launch=launch, moved=moved
        )
        child = self._child
        ended = child is not None and child.exit_code is not None
        seen = seen._replace(child=self._child_state(), tail=child.tail() if child and ended else "")
        self.last.seen = seen
        return seen

    def _child_state(self) -> str:
        if self._unrunnable:
            return "unrunnable"
        if self._child is None:
            return "none"
        return "runs" if self._child.exit_code is None else str(self._child.exit_code)

    # --- locks --------------------------------------------------------------------------------------------
    def _bring(self, state: State) -> Launch:
        with self._guard:
            if self._gone:
                return Launch.FREE
            self._bring_hosts(state.hosts)
            self._lease.bring(wanted=self._hold is not Hold.NONE)
            return self._bring_launch(wanted=state.launch, ask=state.goal is Goal.WATCH)

    def _bring_hosts(self, wanted: Hold) -> None:
        if self._hosts is not None and (wanted is Hold.NONE or not self._hosts.in_place()):
            self._hosts.close()
            self._hosts, self._hold = None, Hold.NONE
        if wanted is Hold.NONE or wanted is self._hold:
            return
        fresh = self._hosts is None
        if self._hosts is None:
            state_dir.prepare(self.files.root)
            self._hosts = FileLock(self.files.hosts_lock)
        got = self._hosts.try_exclusive() if wanted is Hold.EXCLUSIVE else self._hosts.try_shared()
        self._hold = wanted if got and self._hosts.in_place() else Hold.NONE
        if fresh and self._hold is Hold.SHARED:
            self._hosts.touch()

    def _bring_launch(self, *, wanted: bool, ask: bool) -> Launch:
        if not wanted:
            self._drop_launch()
            return Launch.OTHER if ask and held(self.files.launch_lock) else Launch.FREE
        if self._launch is not None and self._launch.in_place():
            return Launch.MINE
        self._drop_launch()
        lock = FileLock(self.files.launch_lock)
        if lock.try_exclusive():
            self._launch = lock
            return Launch.MINE
        lock.close()
        return Launch.OTHER

    def _drop_launch(self) -> None:
        if self._launch is not None:
            self._launch.close()
            self._launch = None

    def drop(self) -> None:
        """Close every lock; the manager may be used again."""
        with self._guard:
            self._lease.close()
            if self._hosts is not None:
                self._hosts.close()
            self._hosts, self._hold = None, Hold.NONE
            self._drop_launch()

    def let_go(self) -> None:
        """Close every lock at once and for good; from any thread."""
        with self._guard:
            self._gone = True
        self.drop()

    # --- acting -------------------------------------------------------------------------------------------
    def _perform(self, action: Action) -> None:
        """Perform one action. Raises StateDirError or OSError."""
        if self._gone:
            return
        record = self.last.record
        if action.kind == "save" and action.restarts is not None:
            state_dir.replace_file(self.files.restarts, restarts.encode(action.restarts))
            self.last.seen = self.last.seen._replace(restarts=action.restarts)
        elif action.kind == "clear":
            self._clear()
        elif action.kind == "spawn":
            self._child, self._unrunnable = None, ""
            try:
                self._child = process.spawn(self.config.launch, self.files.root, self.me)
            except HostError as exc:
                self._unrunnable = str(exc)
        elif action.kind == "kill_child" and self._child is not None:
            self._child.kill()
        elif action.kind in ("terminate", "kill") and record is not None and record.instance_id == action.word:
            process.send(record, signal.SIGTERM if action.kind == "terminate" else signal.SIGKILL)
        elif action.kind == "adopt" and record is not None:
            self._adopt(record)

    def _clear(self) -> None:
        """Remove a dead sidecar's record; nothing while a sidecar lives."""
        lock = FileLock(self.files.sidecar_lock)
        try:
            if lock.try_shared():
                state_dir.remove(self.files.record)
        finally:
            lock.close()

    def _adopt(self, record: Record) -> None:
        """Write this host into the record as its owner, unless something has changed."""
        lock = FileLock(self.files.launch_lock)
        try:
            if lock.try_exclusive() and held(self.files.sidecar_lock):
                now = parse_record(state_dir.read_bytes(self.files.record)).record
                if now == record:
                    state_dir.replace_file(self.files.record, encode_record(record.owned_by(self.me)))
                    self.adopted = True
        finally:
            lock.close()

    # --- words --------------------------------------------------------------------------------------------
    def error(self, state: State) -> HostError | StateDirError:
        """Make the error that an outcome means."""
        return self.error_of(state.outcome, state.reason)

    def error_of(self, outcome: str, reason: str) -> HostError | StateDirError:
        """Make the error that the machine's words mean."""
        if outcome == "fault":
            return StateDirError(reason)
        seen = self.last.seen
        text = explain(self.config, reason, self.last, self._unrunnable)
        if outcome in ("launch_failed", "dead"):
            if reason == "needs" and self.last.record is not None:
                self.looker.poor.add(self.last.record.instance_id)
            elsewhere = reason in ("elsewhere", "gave_up")
            code = seen.restarts.exit_code if elsewhere else self._child.exit_code if self._child else None
            permanent = reason in ("needs", "program", "gave_up") or code in PERMANENT
            tail = seen.restarts.message if elsewhere else seen.tail if reason not in ("needs", "program") else ""
            return LaunchFailed(text, exit_code=code, permanent=permanent, log_tail=tail)
        return {"conflict": Conflict, "timeout": TimedOut, "in_use": InUse}.get(outcome, HostError)(text)


def _words(root: Path, exc: Exception) -> str:
    return str(exc if isinstance(exc, StateDirError) or not isinstance(exc, OSError) else state_dir.explain(root, exc))
