"""A look at a state directory: the left side of the protocol's table, and the words for what stands there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from host_api.config import HostConfig
from host_api.connection import Connection, Status
from host_api.protocol import identity, state_dir
from host_api.protocol.decision import Compat, HealthAnswer, Identity, LockState, Observation
from host_api.protocol.lock import held
from host_api.protocol.probe import health_of, port_holder, probe
from host_api.protocol.record import Record, RecordState, parse_record, satisfies
from host_api.protocol.state_dir import Files


@dataclass(frozen=True)
class Seen:
    """An observation and the record it rests on."""

    observation: Observation
    record: Record | None = None
    holder: str | None = None


class Patience:
    """Knows for how long an observation hasn't changed."""

    def __init__(self, config: HostConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._key: object = None
        self._since = 0.0
        self._looks = 0

    def overdue(self, record: RecordState, instance: str, answer: HealthAnswer) -> bool:
        """Whether this state has outlasted its deadline, and was seen three times (a laptop may have slept)."""
        quiet = answer in (HealthAnswer.REFUSED, HealthAnswer.SILENT)
        key = (record, instance, "quiet" if quiet else answer)
        if key != self._key:
            self._key, self._since, self._looks = key, self._clock(), 0
        self._looks += 1
        if record is not RecordState.VALID:
            limit = self._config.start_timeout
        else:
            limit = self._config.hung_after if quiet else self._config.drain_after
        return self._looks >= 3 and self._clock() - self._since >= limit


def observe(config: HostConfig, files: Files, patience: Patience, *, alone: Callable[[], bool]) -> Seen:
    """What there is now. ``alone`` is asked only about a sidecar that doesn't meet the needs."""
    parsed = parse_record(state_dir.read_bytes(files.record))
    record = parsed.record
    answer, who, compat = HealthAnswer.REFUSED, Identity.GONE, Compat.OK
    if record is not None:
        answer = probe(record, timeout=config.probe_timeout)
        who = identity.identify(record.pid, record.start_token)
        if not satisfies(record, config.min_version, config.capabilities):
            compat = Compat.ALONE if alone() else Compat.SHARED
    lock = LockState.HELD if held(files.sidecar_lock) else LockState.FREE
    holder = None
    launch = config.launch
    if lock is LockState.FREE and launch.strict_port and launch.port:
        holder = port_holder(launch.host, launch.port)
    observation = Observation(
        lock=lock,
        record=parsed.state,
        identity=who,
        answer=answer,
        compat=compat,
        overdue=patience.overdue(parsed.state, record.instance_id if record else "", answer),
        port_blocked=holder is not None,
    )
    return Seen(observation, record, holder)


def why(config: HostConfig, files: Files, seen: Seen) -> str:
    """Why a host can't attach, and what to do, for people."""
    obs, record, root = seen.observation, seen.record, files.root
    if seen.holder is not None:
        return (
            f"port {config.launch.port} is taken by {seen.holder}; free it, choose another with --port, "
            "or drop --strict-port"
        )
    if obs.record is RecordState.UNKNOWN_SCHEMA:
        return f"a sidecar of another protocol version runs in {root}; update this program, or stop that sidecar"
    if record is None:
        return f"a sidecar holds {root} but its record is {obs.record}; it is starting, or stop it by hand"
    if obs.compat is not Compat.OK and obs.answer is HealthAnswer.ECHO:
        need = config.min_version or ", ".join(config.capabilities)
        return (
            f"the running sidecar {record.version} (pid {record.pid}) doesn't meet what is needed ({need}) "
            "and others use it; close them first"
        )
    if obs.answer is HealthAnswer.OTHER:
        return f"another program answers at {record.url}, the sidecar's address; it is left alone"
    return (
        f"the sidecar (pid {record.pid}) at {record.url} is {obs.answer} and its process can't be "
        f"proved to be the sidecar ({obs.identity}); stop it by hand"
    )


def status(config: HostConfig) -> Status:
    """Return what there is in the configured state directory. Raises StateDirError."""
    seen = observe(config, state_dir.prepare(config.state_dir), Patience(config, time.monotonic), alone=lambda: True)
    obs, record = seen.observation, seen.record
    if obs.lock is LockState.FREE:
        return Status(state="stopped")
    if record is None:
        return Status(state="starting" if obs.record is not RecordState.UNKNOWN_SCHEMA else "foreign")
    states = {
        HealthAnswer.ECHO: "running",
        HealthAnswer.DRAINING: "draining",
        HealthAnswer.FAILED: "failed",
        HealthAnswer.OTHER: "foreign",
    }
    health = None
    if obs.answer in (HealthAnswer.ECHO, HealthAnswer.DRAINING, HealthAnswer.FAILED):
        with contextlib.suppress(OSError, ValueError):
            health = health_of(record)
    return Status(
        state=states.get(obs.answer, "hung"),
        pid=record.pid,
        url=record.url,
        instance_id=record.instance_id,
        version=record.version,
        managed=record.managed,
        owner=record.owner.to_json() if record.owner else None,
        health=health,
        token=record.token,
    )


def current(config: HostConfig) -> Connection | None:
    """Return the running sidecar without becoming its host, or None. For one-off tools."""
    files = state_dir.prepare(config.state_dir)
    record = parse_record(state_dir.read_bytes(files.record)).record
    if record is None or not held(files.sidecar_lock) or probe(record) is not HealthAnswer.ECHO:
        return None
    return Connection.of(record, "attached")
