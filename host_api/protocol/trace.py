"""The machine over a written-down schedule, and its steps as text: what two implementations are compared by.

A schedule is ``{"goal", "begin", "policy", "known", "joined", "force", "restarts", "text",
"steps": [[now, seen], …]}``,
each key but ``goal`` and ``steps`` optional; ``seen`` has the fields of ``Seen`` that aren't at their defaults. The
answer is the steps' text when ``text`` is true, and its CRC-32 in any case.
"""

from __future__ import annotations

import zlib
from typing import Any

from host_api.protocol.decision import HealthAnswer, Identity, LockState
from host_api.protocol.machine import step
from host_api.protocol.record import RecordState
from host_api.protocol.restarts import Backoff, Failure, Restarts
from host_api.protocol.states import Action, Goal, Hold, Launch, Policy, Seen, State, ensure, stop, watch

_ENUMS: dict[str, Any] = {
    "hosts": Hold,
    "launch": Launch,
    "lock": LockState,
    "record": RecordState,
    "identity": Identity,
    "answer": HealthAnswer,
}


def run(schedule: dict[str, Any]) -> dict[str, Any]:
    """Run one schedule. Raises KeyError, TypeError or ValueError for one that isn't in the form."""
    state = begin(schedule)
    lines = []
    for now, seen in schedule["steps"]:
        state, actions = step(state, seen_of(seen), now)
        lines.append(text_of(state, actions))
    crc = zlib.crc32("\n".join(lines).encode())
    return {"crc": crc, "steps": len(lines)} | ({"text": lines} if schedule.get("text") else {})


def begin(schedule: dict[str, Any]) -> State:
    """Return the state that a schedule begins with."""
    numbers = dict(schedule.get("policy", {}))
    backoff = Backoff(**numbers.pop("backoff", {}))
    policy = Policy(backoff=backoff, **numbers)
    now = schedule.get("begin", 0.0)
    goal = Goal(schedule["goal"])
    if goal is Goal.ENSURE:
        return ensure(policy, now, schedule.get("known", ""))
    if goal is Goal.STOP:
        return stop(policy, now, force=schedule.get("force", False), joined=schedule.get("joined", False))
    return watch(policy, now, schedule.get("known", ""), restarts_of(schedule.get("restarts", {})))


def seen_of(document: dict[str, Any]) -> Seen:
    """Return the look that a JSON object describes."""
    values = {k: _ENUMS[k](v) if k in _ENUMS and v is not None else v for k, v in document.items()}
    if "restarts" in values:
        values["restarts"] = restarts_of(values["restarts"])
    return Seen(**values)


def seen_to_json(seen: Seen) -> dict[str, Any]:
    """Return a look as JSON, without what is at its default."""
    usual = Seen()
    document = {k: v for k, v in seen._asdict().items() if v != getattr(usual, k)}
    if "restarts" in document:
        document["restarts"] = restarts_to_json(seen.restarts)
    return document


def restarts_of(document: dict[str, Any]) -> Restarts:
    """Return the restart state that a JSON object describes."""
    history = tuple(Failure(at, why) for at, why in document.get("history", []))
    return Restarts(**{**document, "history": history})


def restarts_to_json(state: Restarts) -> dict[str, Any]:
    """Return a restart state as JSON."""
    return {**state.__dict__, "history": [[one.at, one.why] for one in state.history]}


def _us(seconds: float) -> str:
    return str(int(seconds * 1e6))


def _yes(value: bool) -> str:
    return "1" if value else "0"


def text_of(s: State, actions: tuple[Action, ...]) -> str:
    """Return a step as one line; times in whole microseconds, cut off."""
    parts = [
        *(s.phase, s.hosts, _yes(s.launch), _yes(s.ask), _us(s.pause), _us(s.deadline), _us(s.until), s.instance),
        *(str(s.first_attempt), str(s.mark[0]), _us(s.mark[1]), str(s.starts), str(s.races), _yes(s.waited)),
        *(_us(s.alone_since), s.key, _us(s.at), _us(s.quiet_for), str(s.looks), _yes(s.was_loading)),
        *(str(s.progress), _us(s.next_ask), s.told, s.outcome, s.reason),
    ]
    return "|".join(parts) + "".join(f" {_action(a)}" for a in actions)


def _action(a: Action) -> str:
    text = f"{a.kind},{a.word},{a.detail}"
    if a.restarts is None:
        return text
    r = a.restarts
    code = "-" if r.exit_code is None else str(r.exit_code)
    last = ";".join(f"{_us(one.at)}:{one.why}" for one in r.history)
    return f"{text},{r.failures},{_us(r.last_start)},{_us(r.last_failure)},{r.attempt},{code},{r.message},{last}"
