"""The one machine of a host: what it does next, given what it sees. Pure; its twin is ``machine.rs``.

Theory of operation
===================
``step(state, seen, now)`` is the whole of a host's side of the protocol: ensure, watch, stop, replace, back off, give
up, and the check after a spawn. It reads no clock, file or socket. A driver (``host_api/manager.py``) does, in turn:
bring the locks to what ``state.hosts`` and ``state.launch`` want, each by one attempt that never blocks; look; call
``step``; perform the actions in their order; wait ``state.pause`` seconds, or less when it is told to let go.

Locks are wanted, not taken: a state says which hold it wants, and the next ``Seen`` says which one it has. A hold that
was refused is simply seen as missing, and the machine looks again, until ``deadline``.

``goal`` is ENSURE (ends with an outcome), STOP (the same) or WATCH (never ends by itself). ``phase`` is where in it
the host is: LOOKING decides by the table in ``decision.py``; BACKING_OFF waits before a start; STARTING has a child
that doesn't answer yet; ENDING has sent SIGTERM and KILLING SIGKILL; ATTACHED, DEAD and IDLE exist for WATCH alone.

Time is ``now``, a monotonic clock; ``seen.wall`` is the wall clock, for the back-off that hosts share by a file.
*Patience* counts for how long nothing has changed, and counts only what can be held against the sidecar: a gap between
two looks longer than was asked for (a laptop slept) counts as 2 s at most, the time this thread itself came late
(``lag``) not at all, and silence of a process that uses the CPU (``busy``) a quarter: a starved sidecar has 40 s where
a stopped one has 10. While it said ``loading``, the limit is ``start_timeout`` since the last sign of progress.

A timeline: a host watches; SIGKILL hits the sidecar; ``base`` 1 s
    t 0.00  ATTACHED, lock free, record left      -> event crashed; wants launch.lock; LOOKING, pause 0
    t 0.00  LOOKING, launch.lock ours: SPAWN      -> save failures 1, clear the record, save attempt 2, spawn
    t 0.61  STARTING, the new one echoes its id   -> event restarted, ATTACHED, pause 1
    t 9.00  it is killed again, after 8 s of life -> failures 2: BACKING_OFF until 10.00, then spawn
    the next ones wait 2, 4, 8, 16, 30 s; at the eighth failure without 60 s of life between -> DEAD, event failed;
    from then on it only looks every 5 s whether another program started one, until its own program asks again.
"""

from __future__ import annotations

from dataclasses import replace

from host_api.protocol.decision import (
    PERMANENT,
    Compat,
    Decision,
    ExitCode,
    HealthAnswer,
    Identity,
    LockState,
)
from host_api.protocol.judgement import ALONE_TRY, QUIET, compat_of, decision_of, overdue, why, with_patience
from host_api.protocol.record import RecordState
from host_api.protocol.states import HEALTH, LOOK, NEVER, Action, Goal, Hold, Launch, Phase, Seen, State, Step, watch

DEAD_LOOK = 5.0  # the same, after giving up
KILL_WAIT = 10.0  # from SIGKILL to a free lock
RACES = 5  # lost starts after which something is known to keep the lock


def step(state: State, seen: Seen, now: float) -> Step:
    """Take one step. Total: any state with any ``seen`` gives a next state; an outcome is final."""
    if state.outcome:
        return state, ()
    if seen.fault:
        return _failed(state, "fault", seen.fault)
    state = with_patience(state, seen, now)
    if state.first_attempt < 0:
        state = replace(state, first_attempt=seen.restarts.attempt)
    if state.phase is Phase.STARTING:
        return _starting(state, seen, now)
    if state.phase in (Phase.ENDING, Phase.KILLING):
        return _ending(state, seen, now)
    if state.phase is Phase.ATTACHED:
        return _attached(state, seen, now)
    if state.phase is Phase.DEAD:
        return _dead(state, seen, now)
    if state.phase is Phase.IDLE:
        return replace(state, pause=LOOK), ()
    if state.goal is Goal.STOP:
        return _stopping(state, seen, now)
    return _looking(state, seen, now)


# --- ensure -----------------------------------------------------------------------------------------------
def _looking(s: State, seen: Seen, now: float) -> Step:
    refused = seen.hosts is Hold.NONE and s.hosts is Hold.SHARED
    # The sidecar that refuses is leaving; one that hangs while it leaves is replaced all the same.
    if refused and decision_of(s, seen, Compat.OK) is not Decision.REPLACE:
        return _again(s, now, "leaving", "timeout")
    s, compat, settled = compat_of(s, seen, now)
    if not settled:
        return _again(s, now, "launch_busy", "timeout", pause=0.01)
    decision = decision_of(s, seen, compat)
    if decision is Decision.ATTACH:
        if seen.hosts is not Hold.SHARED:
            return replace(s, hosts=Hold.SHARED, pause=0.0), ()
        return _attach(s, seen, now, "attached")
    if decision is Decision.CONFLICT:
        reason = why(seen, compat)
        return _failed(s, "launch_failed" if reason == "needs" else "conflict", reason)
    if decision is Decision.WAIT:
        return _again(s, now, "waiting", "timeout")
    if seen.launch is not Launch.MINE:
        # A host that holds on while it waits would keep others that need another sidecar from being alone.
        hosts = s.hosts if compat is Compat.OK else Hold.NONE
        s = replace(s, launch=True, hosts=hosts)
        return _again(s, now, "launch_busy", "timeout", pause=0.0 if seen.launch is Launch.FREE else -1.0)
    if decision is Decision.REPLACE:
        word = "hung" if compat is Compat.OK else "replaced"
        saved = seen.restarts.crashed(seen.wall, s.policy.backoff, word)
        return _end(s, seen, now, s.policy.term_wait, Action("save", restarts=saved))
    return _spawn(s, seen, now)


def _again(s: State, now: float, reason: str, outcome: str, pause: float = -1.0) -> Step:
    """Look again, a little later each time, until the deadline."""
    if now > s.deadline:
        return _failed(s, outcome, reason)
    grown = min(0.1, max(0.005, s.pause * 1.5)) if pause < 0 else pause
    return replace(s, pause=grown), ()


def _spawn(s: State, seen: Seen, now: float) -> Step:
    shared = seen.restarts
    if s.starts == 0 and shared.attempt != s.first_attempt and shared.exit_code in PERMANENT:
        return _failed(s, "launch_failed", "elsewhere")
    actions: list[Action] = []
    if seen.record is not RecordState.ABSENT:
        shared = shared.crashed(seen.wall, s.policy.backoff)
        actions = [Action("save", restarts=shared), Action("clear")]
    if s.goal is Goal.WATCH and shared.failures >= s.policy.give_up:
        dead, more = _failed(s, "dead", "gave_up")
        return dead, (*actions, *more)
    wait = 0.0 if s.waited else shared.wait(seen.wall, s.policy.backoff, seen.jitter)
    if wait > 0.001:
        if now + wait > s.deadline:
            failed, more = _failed(s, "timeout", "backing_off")
            return failed, (*actions, *more)
        if s.phase is not Phase.BACKING_OFF:
            s = replace(s, phase=Phase.BACKING_OFF, until=now + wait)
        if now < s.until:
            return replace(s, pause=min(LOOK, s.until - now)), tuple(actions)
    started = shared.started(seen.wall, s.policy.backoff)
    actions += [Action("save", restarts=started), Action("spawn")]
    fresh = replace(s, phase=Phase.STARTING, starts=s.starts + 1, waited=False, pause=0.01, key="", quiet_for=0.0)
    return replace(fresh, at=now, looks=0, was_loading=False), tuple(actions)


def _starting(s: State, seen: Seen, now: float) -> Step:
    """A child of ours starts: ready, gone, or too late."""
    up = seen.lock is LockState.HELD and seen.record is RecordState.VALID and seen.answer is HealthAnswer.ECHO
    if up:
        if not seen.fits:  # its own host's needs: trying again can't help
            return _failed(s, "launch_failed", "needs")
        if seen.hosts is not Hold.SHARED:
            return replace(s, hosts=Hold.SHARED, pause=0.0), ()
        return _attach(s, seen, now, "spawned")
    if seen.child == "runs":
        if s.quiet_for >= s.policy.start_timeout:
            saved = seen.restarts.failed(seen.wall, None, seen.tail)
            return _lost(s, now, "no_answer", (Action("kill_child"), Action("save", restarts=saved)))
        if now > s.deadline:
            return _failed(s, "timeout", "starting")
        return replace(s, pause=min(0.05, max(0.01, s.pause * 1.1))), ()
    if seen.child == str(int(ExitCode.LOCK_HELD)):
        s = replace(s, phase=Phase.LOOKING, races=s.races + 1, waited=True)
        if s.races >= RACES and seen.lock is LockState.FREE:
            return _failed(s, "conflict", "lock_kept")
        return _again(s, now, "waiting", "timeout", pause=0.05 * 2.0 ** min(s.races, 4))
    code = int(seen.child) if seen.child.lstrip("-").isdigit() else None
    actions = (Action("save", restarts=seen.restarts.failed(seen.wall, code, seen.tail)),)
    if seen.child == "unrunnable" and s.goal is Goal.ENSURE:  # a watch tries again: an updater may be at work
        return _failed(s, "launch_failed", "program")
    if code in PERMANENT:
        failed, more = _failed(s, "launch_failed", "exit")
        return failed, (*actions, *more)
    return _lost(s, now, "exit", actions)


def _lost(s: State, now: float, reason: str, actions: tuple[Action, ...]) -> Step:
    """A start failed in a way that another may mend."""
    if s.goal is Goal.ENSURE and s.starts >= s.policy.attempts:
        failed, more = _failed(s, "launch_failed", f"{reason}_again")
        return failed, (*actions, *more)
    return replace(s, phase=Phase.LOOKING, pause=0.0, key="", looks=0, quiet_for=0.0, at=now), actions


# --- ending -----------------------------------------------------------------------------------------------
def _end(s: State, seen: Seen, now: float, wait: float, *before: Action) -> Step:
    hosts = Hold.EXCLUSIVE if s.goal is Goal.STOP else s.hosts  # keeps newcomers waiting, where it is to be had
    ending = replace(s, phase=Phase.ENDING, until=now + wait, instance=seen.instance, pause=0.01, hosts=hosts)
    return ending, (*before, Action("terminate", seen.instance))


def _ending(s: State, seen: Seen, now: float) -> Step:
    free = seen.lock is LockState.FREE
    if free or (seen.record is RecordState.VALID and seen.instance != s.instance):
        clear = (Action("clear"),) if free else ()
        if s.goal is Goal.STOP:
            return replace(s, outcome="stopped", launch=False, hosts=Hold.NONE), clear
        again = replace(s, phase=Phase.LOOKING, hosts=Hold.SHARED, instance="", key="", looks=0, pause=0.0)
        return replace(again, alone_since=-1.0, at=now, quiet_for=0.0), clear
    if now < s.until:
        return replace(s, pause=min(0.05, s.pause * 1.2)), ()
    if s.phase is Phase.ENDING:
        return replace(s, phase=Phase.KILLING, until=now + KILL_WAIT, pause=0.01), (Action("kill", s.instance),)
    return _failed(replace(s, phase=Phase.LOOKING), "conflict", "cannot_end")


def _stopping(s: State, seen: Seen, now: float) -> Step:
    if seen.launch is not Launch.MINE:
        return _again(s, now, "launch_busy", "timeout")
    if seen.lock is LockState.FREE:
        return replace(s, outcome="absent", launch=False, hosts=Hold.NONE), (Action("clear"),)
    late = overdue(s, seen)
    proved = seen.record is RecordState.VALID and seen.identity is Identity.MATCH
    if proved and seen.answer is not HealthAnswer.OTHER:
        if seen.answer is HealthAnswer.DRAINING and seen.managed and not s.force:
            # It is leaving already, and a second signal would cut its last answers off.
            until = now + s.policy.stop_wait
            return replace(s, phase=Phase.ENDING, until=until, instance=seen.instance, pause=0.01), ()
        if seen.answer not in QUIET or s.force or late:
            return _stop_proved(s, seen, now)
    if late or seen.record is RecordState.UNKNOWN_SCHEMA:
        return _failed(s, "conflict", why(seen, Compat.OK))
    return _again(s, now, why(seen, Compat.OK), "timeout", pause=0.02)


def _stop_proved(s: State, seen: Seen, now: float) -> Step:
    if s.force:
        return _end(s, seen, now, s.policy.stop_wait)
    if not seen.managed:
        return _failed(s, "in_use", "by_hand")
    if seen.hosts is Hold.EXCLUSIVE:
        return _end(s, seen, now, s.policy.stop_wait)
    since = now if s.alone_since < 0 else s.alone_since
    if now - since >= ALONE_TRY:
        return _failed(s, "in_use", "others")
    return replace(s, alone_since=since, hosts=Hold.EXCLUSIVE, pause=0.01), ()


# --- watch ------------------------------------------------------------------------------------------------
def _attach(s: State, seen: Seen, now: float, how: str) -> Step:
    if s.goal is not Goal.WATCH:
        return replace(s, outcome=how, instance=seen.instance, launch=False, hosts=Hold.SHARED), ()
    fresh = watch(s.policy, now, seen.instance, seen.restarts)
    return fresh, (Action("event", "restarted", how),)


def _attached(s: State, seen: Seen, now: float) -> Step:
    """All is well, mostly. What isn't leads back to LOOKING, as if the program asked anew."""
    if seen.moved:
        return _restart(s, now, "moved")
    if seen.lock is LockState.FREE:
        mark = (seen.restarts.failures, seen.restarts.last_failure)
        if seen.record is not RecordState.ABSENT or mark != s.mark:
            return _restart(s, now, "crashed")
        if seen.launch is Launch.OTHER:
            return replace(s, pause=0.05 if s.pause >= LOOK else min(0.5, s.pause * 1.3)), ()  # someone is at it
        return replace(s, phase=Phase.IDLE, hosts=Hold.NONE, pause=LOOK), (Action("event", "stopped"),)
    if seen.record is RecordState.VALID and seen.instance != s.instance:
        return _restart(s, now, "replaced")
    if seen.answer is None:
        return replace(s, ask=now + LOOK >= s.next_ask, pause=LOOK, told=""), ()
    decision = decision_of(s, seen, Compat.OK)
    if decision is Decision.REPLACE:
        return _restart(s, now, "hung")
    if decision is Decision.CONFLICT:
        return _failed(s, "conflict", why(seen, Compat.OK))
    well = seen.answer is HealthAnswer.ECHO
    s = replace(s, ask=not well, next_ask=now + HEALTH, pause=LOOK, told="")
    return s, ((Action("adopt"),) if seen.owner_gone and well else ())


def _restart(s: State, now: float, word: str) -> Step:
    """Patience is kept: what was long enough for the watch is long enough for the replacement."""
    again = replace(s, phase=Phase.LOOKING, pause=0.0, ask=True, starts=0, races=0, first_attempt=-1, deadline=NEVER)
    return replace(again, told="", alone_since=-1.0), (Action("event", "crashed", word),)


def _dead(s: State, seen: Seen, now: float) -> Step:
    up = seen.lock is LockState.HELD and seen.answer is HealthAnswer.ECHO and seen.record is RecordState.VALID
    if up and seen.fits:
        if seen.hosts is not Hold.SHARED:
            return replace(s, hosts=Hold.SHARED, pause=0.0), ()
        return _attach(s, seen, now, "attached")
    return replace(s, pause=DEAD_LOOK, hosts=Hold.NONE), ()


def _failed(s: State, outcome: str, reason: str) -> Step:
    """End with an outcome; a watch says it once, and looks again or is dead."""
    if s.goal is not Goal.WATCH:
        hosts = Hold.SHARED if s.joined else Hold.NONE
        return replace(s, outcome=outcome, reason=reason, launch=False, hosts=hosts), ()
    events = () if s.told == f"{outcome}:{reason}" else (Action("event", "failed", f"{outcome}:{reason}"),)
    # While a child starts launch.lock stays ours: what it leaves is written under it.
    keeps = s.launch and s.phase is Phase.STARTING and outcome == "fault"
    s = replace(s, told=f"{outcome}:{reason}", pause=LOOK, launch=keeps)
    if outcome in ("dead", "launch_failed"):
        return replace(s, phase=Phase.DEAD, hosts=Hold.NONE, pause=DEAD_LOOK, ask=True), events
    if s.phase not in (Phase.ATTACHED, Phase.STARTING, Phase.DEAD, Phase.IDLE):
        s = replace(s, phase=Phase.LOOKING, hosts=Hold.SHARED, alone_since=-1.0)
    return s, events
