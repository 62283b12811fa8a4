"""The sidecar's side of the ownership protocol: its lock, its record, and when to leave."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from host_api.loopback.ticks import tick
from host_api.protocol import identity, state_dir
from host_api.protocol.build import Executable, fingerprint
from host_api.protocol.lock import FileLock
from host_api.protocol.record import (
    BUILD_ENV,
    CAPABILITIES,
    Owner,
    Record,
    encode_record,
    new_instance_id,
    parse_record,
)
from host_api.protocol.state_dir import Files, StateDirError
from sidecar.process import output

__all__ = ["Lifecycle", "LockHeld", "StateDirError"]

log = logging.getLogger("sidecar.server")

POLL = 1.0  # seconds between looks at the hosts lock and the record
PATIENCE = 1.0  # seconds to try for the lock: a host's test takes it for a moment


class LockHeld(Exception):
    """Another sidecar holds this state directory's lock. Exit code 75."""


class Lifecycle:
    """One sidecar's hold on a state directory, from ``acquire`` to ``release``."""

    def __init__(self, files: Files, lock: FileLock, *, managed: bool, grace_time: float, owner: Owner | None) -> None:
        self.instance_id = new_instance_id()
        self._files = files
        self._lock = lock
        self._hosts = FileLock(files.hosts_lock)
        self._managed = managed
        self._grace = grace_time
        self._owner = owner
        self._record: Record | None = None
        self._program: Executable | None = None
        self._keep_record = False
        self._complaint = ""

    @classmethod
    def acquire(cls, state_dir_path: Path, *, managed: bool, grace_time: float, owner: Owner | None) -> Lifecycle:
        """Take the sidecar's lock for life. Raises LockHeld or StateDirError."""
        files = state_dir.prepare(state_dir_path)
        lock = FileLock(files.sidecar_lock)
        end = time.monotonic() + PATIENCE
        while not lock.try_exclusive():
            if time.monotonic() > end:
                lock.close()
                raise LockHeld(f"another sidecar runs with the state directory {state_dir_path}{_who(files)}")
            time.sleep(0.002)
        try:
            _check_locks(files)
            _clear(files)
            return cls(files, lock, managed=managed, grace_time=grace_time, owner=owner)
        except BaseException:
            lock.close()
            raise

    def publish(self, *, host: str, port: int, version: str, token: str | None) -> None:
        """Write ``sidecar.pid``; call it once the port is bound. Raises StateDirError."""
        own = identity.own_token()
        namespace = identity.own_namespace()
        owner = self._owner or Owner(kind="standalone", pid=os.getpid(), start_token=own, namespace=namespace)
        self._record = Record(
            pid=os.getpid(),
            start_token=own,
            instance_id=self.instance_id,
            host=host,
            port=port,
            version=version,
            token=token,
            owner=owner,
            started_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            managed=self._managed,
            capabilities=CAPABILITIES,
            namespace=namespace,
        )
        build, _, program = os.environ.get(BUILD_ENV, "").partition(":")
        if getattr(sys, "frozen", False) and not build:  # started by hand
            program = sys.executable
            build = fingerprint(Path(program)) or ""
        if build and program:
            self._program = Executable(Path(program))
            self._record = replace(self._record, build=build, program=program)
        state_dir.replace_file(self._files.record, encode_record(self._record))

    async def watch(self, *, clock: Callable[[], float] = time.monotonic) -> str:
        """Keep the record right; return why to leave. Looks once a second, and nothing that fails ends it.

        A managed sidecar leaves when the state directory is gone, when no host has been left for the grace time, and
        when its own program was replaced or removed: what it hasn't imported yet would fail, or come from another
        version. In the last case the record stays, so that hosts that are still there start the new program.
        """
        alone_since = clock()
        visit = self._hosts.mtime_ns()
        missing = 0
        while True:
            await tick(POLL if self._grace > 4 * POLL else max(0.01, self._grace / 4))
            if not self._lock.in_place():
                if self._managed:
                    return "the state directory was removed"
                continue
            self._heal()
            if not self._managed:
                continue
            output.bound()
            missing = missing + 1 if self._program is not None and self._program.replaced else 0
            if missing >= 2:  # an updater may take a moment between its two renames
                self._keep_record = True
                return "the program was replaced"
            alone = self._alone()
            if alone is None:
                continue
            if not alone:
                alone_since = clock()
                continue
            if self._mtime() != visit:
                visit, alone_since = self._mtime(), clock()
            if clock() - alone_since >= self._grace:
                # The lock stays taken to the end: a host that comes now is refused and waits.
                return f"no host for {self._grace:g} s"
            with contextlib.suppress(OSError):
                self._hosts.unlock()

    def _mtime(self) -> int:
        try:
            return self._hosts.mtime_ns()
        except OSError:
            return 0

    def _alone(self) -> bool | None:
        """Take the hosts lock if no host holds it; None when this process can't tell just now.

        Where the file can't be opened because something else lies there, no host can hold it either.
        """
        try:
            if not self._hosts.in_place():
                self._hosts.close()
                self._hosts = FileLock(self._files.hosts_lock)
            return self._hosts.try_exclusive()
        except (StateDirError, OSError) as exc:
            cause = exc.__cause__ if isinstance(exc, StateDirError) else exc
            number = getattr(cause, "errno", None)
            self._complain(f"hosts.lock can't be looked at: {exc}")
            return True if number in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES) else None

    def _complain(self, text: str) -> None:
        """Log what is wrong once, not at every look."""
        if text != self._complaint:
            self._complaint = text
            log.warning("%s", text)

    def _heal(self) -> None:
        """Put the record back when it was damaged or removed; an owner that a host wrote is kept."""
        if self._record is None:
            return
        try:
            found = parse_record(state_dir.read_bytes(self._files.record)).record
        except StateDirError:
            return  # too many open files here: the next look will tell
        if found is not None and found.owned_by(self._record.owner or _nobody(found)) == self._record:
            self._record = found
            return
        try:
            state_dir.replace_file(self._files.record, encode_record(self._record))
        except StateDirError as exc:
            self._complain(f"sidecar.pid was damaged and can't be written again: {exc}")
        else:
            log.warning("sidecar.pid was damaged; it is written again")

    def release(self) -> None:
        """Remove the record, then let go of the locks; idempotent. A record left behind means a crash."""
        if self._record is not None and self._lock.in_place() and not self._keep_record:
            state_dir.remove(self._files.record)
        self._record = None
        self._lock.close()
        self._hosts.close()


def _nobody(record: Record) -> Owner:
    return record.owner or Owner(kind="standalone", pid=record.pid, start_token=record.start_token)


def _who(files: Files) -> str:
    with contextlib.suppress(StateDirError):
        record = parse_record(state_dir.read_bytes(files.record)).record
        return f" (pid {record.pid}, {record.url})" if record else ""
    return ""


def _check_locks(files: Files) -> None:
    """A file system may accept locks and not keep them: ask once more, through another open file."""
    other = FileLock(files.sidecar_lock)
    try:
        if other.try_shared():
            raise StateDirError(
                f"state directory: {files.root}: its file system doesn't keep file locks; "
                "choose a local folder with --state-dir"
            )
    finally:
        other.close()


def _clear(files: Files) -> None:
    """Remove the last sidecar's record and unfinished ones; safe while its lock is ours."""
    state_dir.remove(files.record)
    for leftover in files.root.glob(f"{state_dir.TEMP_PREFIX}*"):
        state_dir.remove(leftover)
