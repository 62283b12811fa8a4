"""What a look means: for how long it has been so, what the table says, whether another sidecar is needed. Pure."""

from __future__ import annotations

from dataclasses import replace

from host_api.protocol.decision import Compat, Decision, HealthAnswer, Identity, LockState, Observation, decide
from host_api.protocol.record import RecordState
from host_api.protocol.states import Goal, Hold, Launch, Seen, State

SLEPT = 2.0  # most seconds that an unasked-for gap between two looks counts
QUIET = (HealthAnswer.REFUSED, HealthAnswer.SILENT)
ALONE_TRY = 0.5  # seconds of trying to be the only host: others test the lock for moments


def with_patience(s: State, seen: Seen, now: float) -> State:
    """Count for how long the same has been seen, as far as it may be held against the sidecar."""
    if seen.answer is None:
        return s
    quiet = seen.answer in QUIET
    key = f"{seen.record}:{seen.instance}:{'quiet' if quiet else seen.answer}"
    was_loading = seen.loading if not quiet else s.was_loading
    if key != s.key or (quiet and s.was_loading and seen.progress != s.progress):
        looks = s.looks if key == s.key else 0
        fresh = replace(s, key=key, at=now, quiet_for=0.0, looks=looks + 1, was_loading=was_loading)
        return replace(fresh, progress=seen.progress)
    passed = max(0.0, min(now - s.at, s.pause + SLEPT) - seen.lag)
    if quiet and seen.busy:
        passed /= 4.0
    return replace(s, at=now, quiet_for=s.quiet_for + passed, looks=s.looks + 1, was_loading=was_loading)


def overdue(s: State, seen: Seen) -> bool:
    """Whether what is seen has outlasted its limit, and was seen three times."""
    if seen.record is not RecordState.VALID or (seen.answer in QUIET and s.was_loading):
        limit = s.policy.start_timeout
    else:
        limit = s.policy.hung_after if seen.answer in QUIET else s.policy.drain_after
    return s.looks >= 3 and s.quiet_for >= limit


def decision_of(s: State, seen: Seen, compat: Compat) -> Decision:
    """Ask the table."""
    return decide(
        Observation(
            lock=seen.lock,
            record=seen.record,
            identity=seen.identity,
            answer=seen.answer or HealthAnswer.ECHO,
            compat=compat,
            overdue=overdue(s, seen),
            port_blocked=seen.port_blocked,
            managed=seen.managed,
        )
    )


def compat_of(s: State, seen: Seen, now: float) -> tuple[State, Compat, bool]:
    """How the running sidecar meets the needs; the last is False while that isn't settled yet.

    A sidecar of another build than this host's own program is as good as none when no other host uses it (its files
    may be gone: an updater swapped the bundle), and good enough when another does.
    """
    other_build = seen.build == "other" and seen.managed and seen.instance != s.instance and s.goal is Goal.ENSURE
    runs = seen.lock is LockState.HELD and seen.record is RecordState.VALID and seen.answer is HealthAnswer.ECHO
    if not runs or (seen.fits and not other_build):
        return replace(s, alone_since=-1.0, hosts=Hold.SHARED), Compat.OK, True
    if not seen.fits and (s.goal is Goal.WATCH or seen.build == "same"):
        return s, Compat.SHARED, True  # nothing that this host could start is better
    if seen.launch is not Launch.MINE:
        return s, Compat.ALONE, True  # to be told once launch.lock is ours
    if seen.hosts is Hold.EXCLUSIVE:
        return s, Compat.ALONE, True
    since = now if s.alone_since < 0 else s.alone_since
    if now - since < ALONE_TRY:
        return replace(s, alone_since=since, hosts=Hold.EXCLUSIVE), Compat.ALONE, False
    shared = Compat.OK if seen.fits else Compat.SHARED
    return replace(s, alone_since=since, hosts=Hold.SHARED), shared, True


def why(seen: Seen, compat: Compat) -> str:
    """Name what stands in the way, in a word that ``observe.explain`` has a sentence for."""
    if seen.lock is LockState.FREE:
        return "port" if seen.port_blocked else "nothing"
    if seen.record is RecordState.UNKNOWN_SCHEMA:
        return "schema"
    if seen.record is not RecordState.VALID:
        return "record"
    if seen.answer is HealthAnswer.OTHER:
        return "stranger"
    if not seen.managed:
        return "by_hand" if compat is Compat.OK else "needs_by_hand"
    if seen.answer is HealthAnswer.ECHO and compat is not Compat.OK:
        if seen.build == "same":
            return "needs"
        return "needs_shared" if compat is Compat.SHARED else "unproved"
    return "unproved" if seen.identity is not Identity.MATCH else "quiet"
