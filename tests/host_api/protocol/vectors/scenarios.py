"""Schedules for the machine, with what a reader of the protocol expects after each look.

A case is a name, a goal with its settings, and looks: (now, what is seen, "PHASE-or-outcome: actions"). What is seen
adds to the look before it (``None`` forgets all). Expectations are written by hand; the whole text of each step, which
both implementations must give, is made from them by ``generate.py``.
"""

from __future__ import annotations

from typing import Any

A, B = "a" * 32, "b" * 32
MINE = {"hosts": "shared", "launch": "mine"}
FREE = {"hosts": "shared", "lock": "free", "record": "absent", "instance": "", "answer": "refused", "identity": "gone"}
UP = {"lock": "held", "record": "valid", "instance": A, "identity": "match", "answer": "echo", "hosts": "shared"}
SILENT = {"answer": "silent"}
LIGHT = {"answer": None}
CRASHED = {"lock": "free", "answer": "refused", "identity": "gone"}

Look = tuple[float, dict[str, Any] | None, str]


def shared(failures: int, start: float, failure: float, attempt: int, **more: Any) -> dict[str, Any]:
    return {
        "restarts": {"failures": failures, "last_start": start, "last_failure": failure, "attempt": attempt, **more}
    }


def again(every: float, times: int, begin: float, seen: dict[str, Any], expected: str) -> list[Look]:
    return [(begin + every * n, seen, expected) for n in range(times)]


CASES: list[tuple[str, dict[str, Any], list[Look]]] = [
    ("attach", {"goal": "ensure"}, [(0.0, UP, "attached:")]),
    (
        "spawn",
        {"goal": "ensure"},
        [
            (0.0, FREE, "looking:"),
            (0.0, MINE, "starting: save spawn"),
            (0.1, {"child": "runs"}, "starting:"),
            (0.6, UP, "spawned:"),
        ],
    ),
    (
        "another program is quicker",
        {"goal": "ensure"},
        [
            (0.0, FREE | {"launch": "other"}, "looking:"),
            (0.1, {"lock": "held"}, "looking:"),
            (0.7, UP, "attached:"),
        ],
    ),
    (
        "the last sidecar is leaving",
        {"goal": "ensure"},
        [(0.0, UP | {"hosts": "none", "answer": "draining"}, "looking:"), (0.5, FREE, "looking:")],
    ),
    (
        "its own program doesn't meet the needs",
        {"goal": "ensure"},
        [
            (0.0, FREE | MINE, "starting: save spawn"),
            (0.5, UP | {"fits": False, "child": "runs"}, "launch_failed needs:"),
        ],
    ),
    (
        "the running one is this host's own program and doesn't meet the needs",
        {"goal": "ensure"},
        [(0.0, UP | {"fits": False, "build": "same"}, "launch_failed needs:")],
    ),
    (
        "a worse sidecar, and no other host",
        {"goal": "ensure"},
        [
            (0.0, UP | {"fits": False}, "looking:"),
            (0.0, {"hosts": "none", "launch": "mine"}, "looking:"),
            (0.01, {"hosts": "exclusive"}, "ending: save terminate"),
            (0.3, FREE | {"hosts": "exclusive"}, "looking: clear"),
            (0.3, {"hosts": "shared"}, "starting: save spawn"),
        ],
    ),
    (
        "a worse sidecar that others use",
        {"goal": "ensure"},
        [
            (0.0, UP | {"fits": False}, "looking:"),
            (0.0, {"hosts": "none", "launch": "mine"}, "looking:"),
            (0.3, {}, "looking:"),
            (0.6, {}, "conflict needs_shared:"),
        ],
    ),
    (
        "a worse sidecar, started by hand",
        {"goal": "ensure"},
        [
            (0.0, UP | MINE | {"fits": False, "managed": False, "hosts": "exclusive"}, "conflict needs_by_hand:"),
        ],
    ),
    (
        "an updater swapped the bundle, and no other host",
        {"goal": "ensure"},
        [
            (0.0, UP | {"build": "other"}, "looking:"),
            (0.0, {"hosts": "exclusive", "launch": "mine"}, "ending: save terminate"),
        ],
    ),
    (
        "another app's build, in use",
        {"goal": "ensure"},
        [
            (0.0, UP | {"build": "other"}, "looking:"),
            (0.0, {"hosts": "none", "launch": "mine"}, "looking:"),
            (0.6, {}, "looking:"),
            (0.6, {"hosts": "shared"}, "attached:"),
        ],
    ),
    (
        "a start that fails for good",
        {"goal": "ensure"},
        [
            (0.0, FREE | MINE, "starting: save spawn"),
            (0.2, {"child": "78", "tail": "why"}, "launch_failed exit: save"),
        ],
    ),
    (
        "three starts that fail",
        {"goal": "ensure"},
        [
            (0.0, FREE | MINE, "starting: save spawn"),
            (0.1, {"child": "1"}, "looking: save"),
            (0.1, {"child": "none"} | shared(1, 0.0, 0.1, 1), "starting: save spawn"),
            (0.2, {"child": "-6"}, "looking: save"),
            (0.2, {"child": "none"} | shared(2, 0.1, 0.2, 2), "backing_off:"),
            (1.3, {"wall": 1.3}, "starting: save spawn"),
            (1.4, {"child": "1"}, "launch_failed exit_again: save"),
        ],
    ),
    (
        "something keeps the lock from every start",
        {"goal": "ensure"},
        [
            (0.0, FREE | MINE, "starting: save spawn"),
            *(
                look
                for n in range(4)
                for look in [(1.0 + n, {"child": "75"}, "looking:"), (1.5 + n, {}, "starting: save spawn")]
            ),
            (6.0, {"child": "75"}, "conflict lock_kept:"),
        ],
    ),
    (
        "too many open files ends an ensure",
        {"goal": "ensure"},
        [(0.0, {"fault": "too many open files"}, "fault too many open files:")],
    ),
    (
        "a laptop slept while the sidecar was silent: not hung yet",
        {"goal": "ensure"},
        [
            (0.0, UP | SILENT, "looking:"),
            (1.0, {}, "looking:"),
            (8000.0, {}, "timeout waiting:"),
        ],
    ),
    (
        "silent for ten seconds of looks",
        {"goal": "ensure"},
        [
            *again(1.0, 10, 0.0, UP | SILENT, "looking:"),
            (10.1, {}, "looking:"),
            (10.1, MINE, "ending: save terminate"),
            (15.2, {}, "killing: kill"),
            (15.3, FREE, "looking: clear"),
        ],
    ),
    (
        "silent and at work: forty seconds",
        {"goal": "ensure"},
        [
            *again(1.0, 40, 0.0, UP | MINE | SILENT | {"busy": True}, "looking:"),
            (41.0, {}, "ending: save terminate"),
        ],
    ),
    (
        "silent while this thread came late: it is the machine that is slow",
        {"goal": "ensure"},
        again(2.0, 40, 0.0, UP | MINE | SILENT | {"lag": 1.9}, "looking:"),
    ),
    (
        "silent while it loads and makes progress",
        {"goal": "watch", "known": A},
        [
            (1.0, UP | {"loading": True}, "attached:"),
            *[(2.0 + n, SILENT | {"progress": n}, "attached:") for n in range(30)],
        ],
    ),
    (
        "silent and started by hand: told, never touched",
        {"goal": "watch", "known": A},
        [
            *again(1.0, 10, 0.0, UP | SILENT | {"managed": False}, "attached:"),
            (10.0, {}, "attached: failed"),
            (11.0, {}, "attached:"),
        ],
    ),
    (
        "a crash",
        {"goal": "watch", "known": A},
        [
            (1.0, UP | LIGHT, "attached:"),
            (2.0, CRASHED, "looking: crashed"),
            (2.0, MINE, "starting: save clear save spawn"),
            (2.6, UP | {"instance": B, "child": "runs"}, "attached: restarted"),
        ],
    ),
    (
        "a clean end",
        {"goal": "watch", "known": A},
        [(1.0, UP | LIGHT, "attached:"), (2.0, FREE, "idle: stopped"), (3.0, {}, "idle:")],
    ),
    (
        "someone is at it",
        {"goal": "watch", "known": A},
        [
            (1.0, FREE | {"launch": "other"}, "attached:"),
            (1.1, {}, "attached:"),
            (1.5, UP | {"instance": B}, "looking: crashed"),
        ],
    ),
    (
        "killed while the disk is full: mended when there is room",
        {"goal": "watch", "known": A},
        [
            (1.0, UP | LIGHT | CRASHED, "looking: crashed"),
            (1.0, MINE, "starting: save clear save spawn"),
            (1.0, {"fault": "the disk is full"}, "starting: failed"),
            (2.0, {}, "starting:"),
            (3.0, {"fault": "", "child": "none"}, "looking: save"),
            (3.0, {}, "starting: save clear save spawn"),
        ],
    ),
    (
        "too many open files: told once, seen again",
        {"goal": "watch", "known": A},
        [
            (1.0, {"fault": "too many open files"}, "attached: failed"),
            (2.0, {}, "attached:"),
            (3.0, UP | LIGHT | {"fault": ""}, "attached:"),
            (4.0, {"fault": "too many open files"}, "attached: failed"),
        ],
    ),
    (
        "the state directory is another one",
        {"goal": "watch", "known": A},
        [(1.0, FREE | {"moved": True}, "looking: crashed"), (1.0, MINE | {"moved": False}, "starting: save spawn")],
    ),
    (
        "it is dead after eight failures, until another program starts one",
        {"goal": "watch", "known": A},
        [
            (1.0, UP | LIGHT | CRASHED | shared(7, 0.5, 0.4, 9), "looking: crashed"),
            (1.0, MINE | {"wall": 1.0}, "dead: save clear failed"),
            (6.0, FREE | {"hosts": "none", "launch": "free"}, "dead:"),
            (11.0, UP | {"instance": B, "hosts": "none"}, "dead:"),
            (11.0, {"hosts": "shared"}, "attached: restarted"),
        ],
    ),
    (
        "a watch replaces nothing for compatibility",
        {"goal": "watch", "known": A},
        [
            (1.0, UP | {"instance": B, "fits": False}, "looking: crashed"),
            (1.0, {}, "looking: failed"),
            (2.0, MINE, "looking:"),
        ],
    ),
    (
        "its owner is gone",
        {"goal": "watch", "known": A},
        [(1.0, UP | {"owner_gone": True}, "attached: adopt")],
    ),
    ("stop: none runs", {"goal": "stop"}, [(0.0, FREE | MINE, "absent: clear")]),
    (
        "stop: the only host",
        {"goal": "stop", "joined": True},
        [
            (0.0, UP | MINE, "looking:"),
            (0.0, {"hosts": "exclusive"}, "ending: terminate"),
            (0.4, FREE | {"hosts": "exclusive"}, "stopped: clear"),
        ],
    ),
    (
        "stop: others use it",
        {"goal": "stop", "joined": True},
        [
            (0.0, UP | MINE, "looking:"),
            (0.3, {"hosts": "none"}, "looking:"),
            (0.6, {}, "in_use others:"),
        ],
    ),
    ("stop: started by hand", {"goal": "stop"}, [(0.0, UP | MINE | {"managed": False}, "in_use by_hand:")]),
    (
        "stop: forced, started by hand",
        {"goal": "stop", "force": True},
        [(0.0, UP | MINE | {"managed": False}, "ending: terminate")],
    ),
    (
        "stop: forced, another process has its PID",
        {"goal": "stop", "force": True},
        [(0.0, UP | MINE | {"identity": "mismatch"}, "looking:"), (95.0, {}, "timeout unproved:")],
    ),
    (
        "stop: forced, a stranger answers",
        {"goal": "stop", "force": True},
        [(0.0, UP | MINE | {"answer": "other"}, "looking:"), (95.0, {}, "timeout stranger:")],
    ),
    (
        "stop: forced, another protocol",
        {"goal": "stop", "force": True},
        [(0.0, MINE | {"lock": "held", "record": "unknown_schema"}, "conflict schema:")],
    ),
    (
        "stop: it is leaving already",
        {"goal": "stop"},
        [(0.0, UP | MINE | {"answer": "draining"}, "ending:"), (3.0, FREE, "stopped: clear")],
    ),
    (
        "stop: started by hand, and leaving already: it is not hurried",
        {"goal": "stop"},
        [(0.0, UP | MINE | {"answer": "draining", "managed": False}, "in_use by_hand:")],
    ),
]
