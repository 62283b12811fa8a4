"""The host's side of the ownership protocol: observe, decide, act. Blocking; one thread at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from host_api import process
from host_api.config import HostConfig
from host_api.errors import Conflict, HostError, InUse, LaunchFailed, StateDirError, TimedOut
from host_api.observe import Patience, Seen, observe, why
from host_api.process import Child
from host_api.protocol import identity, restarts, state_dir
from host_api.protocol.decision import (
    PERMANENT,
    Compat,
    Decision,
    ExitCode,
    HealthAnswer,
    Identity,
    decide,
)
from host_api.protocol.lock import FileLock, held
from host_api.protocol.probe import probe
from host_api.protocol.record import Owner, Record, RecordState, encode_record, parse_record
from host_api.protocol.restarts import Restarts


class Manager:
    """One host's locks and decisions."""

    def __init__(self, config: HostConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.files = state_dir.prepare(config.state_dir)
        self.me = Owner(kind=config.kind, pid=os.getpid(), start_token=identity.own_token())
        self._clock = clock
        self._hosts: FileLock | None = None
        self.child: Child | None = None

    # --- looking --------------------------------------------------------------------------------------
    def record_bytes(self) -> bytes | None:
        """The record file's bytes, or None."""
        return state_dir.read_bytes(self.files.record)

    def observe(self, patience: Patience, *, alone: Callable[[], bool] = lambda: True) -> Seen:
        """What there is now. ``alone`` is asked only about a sidecar that doesn't meet the needs."""
        return observe(self.config, self.files, patience, alone=alone)

    def patience(self) -> Patience:
        """A fresh one."""
        return Patience(self.config, self._clock)

    def restarts(self) -> Restarts:
        """The shared restart state."""
        return restarts.parse(state_dir.read_bytes(self.files.restarts))

    def _save(self, state: Restarts) -> None:
        # Best effort: on a full disk the sidecar itself fails, with the clear message.
        with contextlib.suppress(StateDirError):
            state_dir.replace_file(self.files.restarts, restarts.encode(state))

    # --- the hosts lock ---------------------------------------------------------------------------------
    @property
    def joined(self) -> bool:
        """Whether this host holds the hosts lock."""
        return self._hosts is not None

    def join(self, deadline: float) -> None:
        """Take the hosts lock shared; a refusal means that a sidecar is leaving. Raises TimedOut."""
        if self._hosts is not None and self._hosts.in_place() and self._hosts.try_shared():
            return
        self.leave()
        state_dir.prepare(self.config.state_dir)
        lock = FileLock(self.files.hosts_lock)
        while not (lock.try_shared() and lock.in_place()):
            if not lock.in_place():
                lock.close()
                lock = FileLock(self.files.hosts_lock)
                continue
            if self._clock() > deadline:
                lock.close()
                raise TimedOut("the last sidecar is taking too long to leave; try again, or stop it with force")
            time.sleep(0.005)
        lock.touch()
        self._hosts = lock

    def leave(self) -> None:
        """Let go of the hosts lock."""
        if self._hosts is not None:
            self._hosts.close()
            self._hosts = None

    def _alone(self) -> bool:
        """Turn the hosts lock exclusive if no other host holds it; held so until ``join`` or ``leave``."""
        end = self._clock() + 0.5
        if self._hosts is None:
            self._hosts = FileLock(self.files.hosts_lock)
        while not self._hosts.try_exclusive():
            if self._clock() > end:
                return False
            time.sleep(0.01)
        return True

    @contextmanager
    def launching(self, deadline: float) -> Iterator[None]:
        """The launch lock. Raises TimedOut."""
        lock = FileLock(self.files.launch_lock)
        try:
            while not lock.try_exclusive():
                if self._clock() > deadline:
                    raise TimedOut("another host is starting or stopping the sidecar and takes too long; try again")
                time.sleep(0.01)
            yield
        finally:
            lock.close()

    # --- ensure -----------------------------------------------------------------------------------------
    def ensure(self) -> tuple[Record, str]:
        """The running sidecar's record, and ``spawned`` or ``attached``. Raises HostError, StateDirError."""
        deadline = self._clock() + self.config.timeout
        first = self.restarts().attempt
        patience = self.patience()
        launch: FileLock | None = None
        starts, pause = 0, 0.005
        try:
            while True:
                self.join(deadline)
                seen = self.observe(patience, alone=self._alone if launch else lambda: True)
                decision = decide(seen.observation)
                if decision is Decision.ATTACH and seen.record:
                    self.join(deadline)
                    return seen.record, "attached"
                if decision is Decision.CONFLICT:
                    raise Conflict(why(self.config, self.files, seen))
                if decision in (Decision.SPAWN, Decision.REPLACE) and launch is None:
                    if seen.observation.compat is not Compat.OK:
                        self.leave()  # or hosts that all want a newer sidecar would keep the old one in use
                    lock = FileLock(self.files.launch_lock)
                    if lock.try_exclusive():
                        launch = lock
                        continue
                    lock.close()
                elif decision is Decision.REPLACE and seen.record:
                    self._end(seen.record, self.config.term_wait)
                    patience = self.patience()
                    continue
                elif decision is Decision.SPAWN:
                    state = self.restarts()
                    if state.attempt != first and state.permanent and starts == 0:
                        raise LaunchFailed(
                            "another host's start of the sidecar failed just now",
                            exit_code=state.exit_code,
                            permanent=True,
                            log_tail=state.message,
                        )
                    if self._backed_off(deadline):
                        continue
                    starts += 1
                    record = self._start(deadline, last=starts >= self.config.attempts)
                    if record is not None:
                        return record, "spawned"
                if self._clock() > deadline:
                    raise TimedOut(f"no sidecar within {self.config.timeout:g} s: {why(self.config, self.files, seen)}")
                time.sleep(pause * (0.75 + restarts.jitter() / 2))
                pause = min(0.1, pause * 1.5)
        except BaseException:
            self.leave()
            raise
        finally:
            if launch is not None:
                launch.close()

    def _backed_off(self, deadline: float) -> bool:
        """Count a crash that left its record behind, then wait out the back-off; True when it had to wait."""
        state = self.restarts()
        if self.record_bytes() is not None:
            state = state.crashed(time.time(), self.config.backoff)
            self._save(state)
            self.clear()
        wait = state.wait(time.time(), self.config.backoff, restarts.jitter())
        if wait <= 0.001:
            return False
        if self._clock() + wait > deadline:
            raise TimedOut(f"the sidecar crashed {state.failures} times in a row; next start in {wait:.0f} s")
        time.sleep(wait)
        # Slept in full: what is left would only be another draw of the jitter.
        return held(self.files.sidecar_lock)

    def clear(self) -> None:
        """Remove a dead sidecar's record; nothing while a sidecar lives."""
        lock = FileLock(self.files.sidecar_lock)
        try:
            if lock.try_shared():
                state_dir.remove(self.files.record)
        finally:
            lock.close()

    def _start(self, deadline: float, *, last: bool) -> Record | None:
        """Spawn and wait until it answers; None when another was quicker or trying again may help."""
        self._save(self.restarts().started(time.time()))
        child = process.spawn(self.config.launch, self.files.root, self.me)
        end = self._clock() + self.config.start_timeout
        while child.exit_code is None:
            record = parse_record(self.record_bytes()).record
            if (
                record is not None
                and probe(record, timeout=self.config.probe_timeout) is HealthAnswer.ECHO
                and held(self.files.sidecar_lock)
            ):
                self.child = child
                return record
            now = self._clock()
            if now > end:
                child.kill()
                break
            if now > deadline:
                raise TimedOut(f"the sidecar is still starting after {self.config.timeout:g} s; call again to wait on")
            time.sleep(0.01)
        code = child.exit_code
        if code == ExitCode.LOCK_HELD:
            return None
        tail = child.tail()
        self._save(self.restarts().failed(time.time(), code, tail))
        permanent = code in PERMANENT
        if permanent or last:
            what = f"exit status {code}" if self._clock() <= end else f"no answer in {self.config.start_timeout:g} s"
            raise LaunchFailed(f"the sidecar didn't start ({what})", exit_code=code, permanent=permanent, log_tail=tail)
        return None

    # --- ending -----------------------------------------------------------------------------------------
    def _end(self, record: Record, patience: float) -> None:
        """SIGTERM, then SIGKILL, the record's process; returns once its lock is free. Raises Conflict."""
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
            if not held(self.files.sidecar_lock):
                break
            process.send(record, number)
            end = self._clock() + seconds
            while held(self.files.sidecar_lock):
                now = parse_record(self.record_bytes()).record
                if now is not None and now.instance_id != record.instance_id:
                    return
                if self._clock() > end:
                    break
                time.sleep(0.01)
        if held(self.files.sidecar_lock):
            raise Conflict(f"the sidecar (pid {record.pid}) can't be ended; end it by hand")
        self.clear()

    def stop(self, *, force: bool) -> bool:
        """Stop the sidecar and leave; False when none ran. Raises InUse, Conflict, TimedOut."""
        deadline = self._clock() + self.config.timeout
        with self.launching(deadline):
            was_joined = self.joined
            try:
                return self._stop(force=force, deadline=deadline)
            except HostError:
                if was_joined:
                    self.join(deadline)
                else:
                    self.leave()
                raise

    def _stop(self, *, force: bool, deadline: float) -> bool:
        patience = self.patience()
        while True:
            if not held(self.files.sidecar_lock):
                self.clear()
                self.leave()
                return False
            seen = self.observe(patience)
            record, answer = seen.record, seen.observation.answer
            if record is not None and seen.observation.identity is Identity.MATCH:
                quiet = answer in (HealthAnswer.REFUSED, HealthAnswer.SILENT)
                if answer is not HealthAnswer.OTHER and (not quiet or force or seen.observation.overdue):
                    break
            if seen.observation.overdue or seen.observation.record is RecordState.UNKNOWN_SCHEMA:
                raise Conflict(why(self.config, self.files, seen))
            if self._clock() > deadline:
                raise TimedOut(why(self.config, self.files, seen))
            time.sleep(0.02)
        if not force and not record.managed:
            raise InUse(f"the sidecar (pid {record.pid}) was started by hand; stop it there, or stop with force")
        if not self._alone() and not force:
            raise InUse("other hosts use the sidecar; let them go first, or stop with force")
        self._end(record, self.config.stop_wait)
        self.leave()
        return True

    # --- ownership --------------------------------------------------------------------------------------
    def adopt(self) -> bool:
        """Write this host into the record when its owner is gone; False when there was no need."""
        record = parse_record(self.record_bytes()).record
        if record is None or record.owner is None:
            return False
        if identity.identify(record.owner.pid, record.owner.start_token) not in (Identity.GONE, Identity.MISMATCH):
            return False
        lock = FileLock(self.files.launch_lock)
        try:
            if not (lock.try_exclusive() and held(self.files.sidecar_lock)):
                return False
            if parse_record(self.record_bytes()).record != record:
                return False
            with contextlib.suppress(StateDirError):
                state_dir.replace_file(self.files.record, encode_record(record.owned_by(self.me)))
                return True
            return False
        finally:
            lock.close()
