"""What a host sees and what follows from it: the protocol's decision table (section 6), total and pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from host_api.protocol.record import RecordState


class ExitCode(enum.IntEnum):
    """Exit statuses of the sidecar."""

    CLEAN = 0
    STARTUP_FAILURE = 3
    LOCK_HELD = 75
    CONFIG = 78


PERMANENT = frozenset({int(ExitCode.STARTUP_FAILURE), int(ExitCode.CONFIG)})


class LockState(enum.StrEnum):
    """The sidecar's own lock, as a shared non-blocking attempt sees it."""

    FREE = "free"
    HELD = "held"


class Identity(enum.StrEnum):
    """The process with the record's PID against the record's start token."""

    MATCH = "match"
    MISMATCH = "mismatch"
    GONE = "gone"
    UNKNOWN = "unknown"


class HealthAnswer(enum.StrEnum):
    """What ``GET /health`` on the record's address gave."""

    ECHO = "echo"
    DRAINING = "draining"
    FAILED = "failed"
    OTHER = "other"
    REFUSED = "refused"
    SILENT = "silent"


class Compat(enum.StrEnum):
    """The record's version and capabilities against what the host needs."""

    OK = "ok"
    ALONE = "incompatible_alone"
    SHARED = "incompatible_shared"


class Decision(enum.StrEnum):
    """What a host does next."""

    SPAWN = "SPAWN"
    ATTACH = "ATTACH"
    WAIT = "WAIT"
    REPLACE = "REPLACE"
    CONFLICT = "CONFLICT"


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One row's left side.

    ``overdue``: unchanged past its deadline. ``port_blocked``: strict port, taken. ``managed``: as the record says,
    true without one.
    """

    lock: LockState
    record: RecordState
    identity: Identity
    answer: HealthAnswer
    compat: Compat
    overdue: bool
    port_blocked: bool
    managed: bool


def decide(seen: Observation) -> Decision:
    """The protocol's decision table; total."""
    if seen.lock is LockState.FREE:
        return Decision.CONFLICT if seen.port_blocked else Decision.SPAWN
    if seen.record is RecordState.UNKNOWN_SCHEMA:
        return Decision.CONFLICT
    if seen.record is not RecordState.VALID or seen.answer is HealthAnswer.OTHER:
        return Decision.CONFLICT if seen.overdue else Decision.WAIT
    if seen.answer is HealthAnswer.ECHO:
        if seen.compat is Compat.OK:
            return Decision.ATTACH
        if seen.compat is Compat.SHARED:
            return Decision.CONFLICT
    elif not seen.overdue:
        return Decision.WAIT
    # What was started by hand is ended by hand: a host that does it unasked takes a person's program away.
    return Decision.REPLACE if seen.managed and seen.identity is Identity.MATCH else Decision.CONFLICT
