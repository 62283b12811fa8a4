"""Random schedules of hosts, sidecars and faults against the machine, in both languages, compared step by step.

``python tools/stress/simulate.py --schedules 100000 --seed 1``. A world of pure data stands in for locks, processes and
clocks; two or three machines live in it. What must never happen is asserted at each step; what each machine saw is then
given to the Rust machine, and the text of each step must be the same. A difference is printed as a schedule.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from host_api.protocol import machine, trace
from host_api.protocol.decision import HealthAnswer, Identity, LockState
from host_api.protocol.record import RecordState
from host_api.protocol.restarts import Restarts
from host_api.protocol.states import Action, Goal, Hold, Launch, Phase, Policy, Seen, State, ensure, stop, watch

FAULTS = ("kill", "hang", "wake", "drain", "stranger", "full", "files", "room", "sleep", "clock", "tester", "move")


@dataclass
class Sidecar:
    """A process that serves, or is about to."""

    instance: str
    ready_at: float
    managed: bool = True
    fits: bool = True
    build: str = "same"
    hung: bool = False
    draining_until: float = 0.0
    busy: bool = False
    loading: bool = False


@dataclass
class Host:
    """One machine, what it holds, and what it was shown."""

    name: int
    state: State
    schedule: dict[str, Any]
    next_look: float
    hold: Hold = Hold.NONE
    child: str = "none"
    child_instance: str = ""
    fits: bool = True
    build: str = "same"
    steps: list[Any] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass
class World:
    """What the files and the kernel would hold."""

    rng: random.Random
    now: float = 0.0
    skew: float = 1000.0  # wall clock minus now
    sidecar: Sidecar | None = None  # holds sidecar.lock
    record: RecordState = RecordState.ABSENT
    launch: int | None = None
    restarts: Restarts = Restarts()
    full: bool = False
    files: bool = False
    stranger: bool = False
    tester: bool = False
    bad_exit: int | None = None
    moved: set[int] = field(default_factory=set)
    instances: int = 0
    hosts: list[Host] = field(default_factory=list)
    counts: collections.Counter[str] = field(default_factory=collections.Counter)

    # --- what a host sees -----------------------------------------------------------------------------
    def bring(self, host: Host) -> Launch:
        wants = host.state.hosts
        others = [h for h in self.hosts if h is not host]
        leaving = self.sidecar is not None and self.sidecar.draining_until > 0
        if wants is Hold.NONE or wants is host.hold:
            host.hold = wants
        elif wants is Hold.SHARED:
            free = not leaving and all(h.hold is not Hold.EXCLUSIVE for h in others)
            host.hold = Hold.SHARED if free else Hold.NONE
        else:
            free = not leaving and all(h.hold is Hold.NONE for h in others)
            host.hold = Hold.EXCLUSIVE if free else Hold.NONE
        if not host.state.launch:
            if self.launch == host.name:
                self.launch = None
            busy = self.launch is not None and host.state.goal is Goal.WATCH
            return Launch.OTHER if busy else Launch.FREE
        if self.launch is None:
            self.launch = host.name
        return Launch.MINE if self.launch == host.name else Launch.OTHER

    def look(self, host: Host) -> Seen:
        wall, jitter = self.now + self.skew, self.rng.random()
        if self.files and self.rng.random() < 0.5:
            return Seen(wall=wall, jitter=jitter, fault="too many open files")
        launch = self.bring(host)
        there = self.sidecar
        up = there is not None and there.ready_at <= self.now
        record = self.record
        answer: HealthAnswer | None = HealthAnswer.REFUSED
        if record is RecordState.VALID:
            if self.stranger:
                answer = HealthAnswer.OTHER
            elif there is not None and up:
                answer = HealthAnswer.DRAINING if there.draining_until else HealthAnswer.ECHO
                answer = HealthAnswer.SILENT if there.hung else answer
        valid = record is RecordState.VALID and there is not None
        held = there is not None and not (self.tester and self.rng.random() < 0.1)
        return Seen(
            wall=wall,
            jitter=jitter,
            hosts=host.hold,
            launch=launch,
            lock=LockState.HELD if held else LockState.FREE,
            record=record,
            instance=there.instance if there and record is RecordState.VALID else "",
            identity=Identity.MATCH if valid else Identity.GONE,
            answer=answer if host.state.ask else None,
            loading=bool(there and there.loading and answer is HealthAnswer.ECHO),
            progress=int(self.now) if there and there.loading else 0,
            busy=bool(there and there.busy),
            lag=self.rng.choice((0.0, 0.0, 0.0, 0.3)),
            managed=there.managed if there else True,
            fits=host.fits and (there.fits if there else True),
            build=self.rng.choice(("unknown", "other")) if there and there.build != host.build else "same",
            child=host.child,
            moved=host.name in self.moved,
            owner_gone=self.rng.random() < 0.02,
            tail="last words" if host.child not in ("none", "runs") else "",
            restarts=self.restarts,
        )

    # --- what a host does -----------------------------------------------------------------------------
    def perform(self, host: Host, action: Action, seen: Seen) -> bool:
        """Do it; False when the disk is full."""
        self.counts[action.kind] += 1
        there = self.sidecar
        if action.kind == "save":
            assert self.launch == host.name, "restarts.json is written under launch.lock alone"
            if self.full:
                return False
            assert action.restarts is not None
            self.restarts = action.restarts
        elif action.kind == "clear":
            if there is None:
                self.record = RecordState.ABSENT
        elif action.kind == "spawn":
            assert self.launch == host.name, "nobody spawns without launch.lock"
            self.spawn(host)
        elif action.kind == "kill_child":
            if there is not None and there.instance == host.child_instance:
                self.die()
            host.child = "-9"
        elif action.kind in ("terminate", "kill") and there is not None and there.instance == action.word:
            assert self.launch == host.name, "nobody signals without launch.lock"
            assert there.managed or host.state.force, "what was started by hand was ended unasked"
            assert seen.identity is Identity.MATCH, "a process that isn't proved was signalled"
            if action.kind == "kill" or not there.hung:
                self.die(clean=action.kind == "terminate" and self.rng.random() < 0.7)
        elif action.kind == "event" and action.word == "restarted":
            self.moved.discard(host.name)
        return True

    def spawn(self, host: Host) -> None:
        host.child_instance = ""
        if self.bad_exit is not None:
            host.child = str(self.bad_exit)
        elif self.sidecar is not None or (self.tester and self.rng.random() < 0.5):
            host.child = "75"
        else:
            self.instances += 1
            ready = self.now + self.rng.choice((0.3, 0.6, 2.0, 15.0))
            self.sidecar = Sidecar(f"{self.instances:032x}", ready, fits=self.rng.random() < 0.9, build=host.build)
            host.child, host.child_instance = "runs", self.sidecar.instance
            self.record = RecordState.ABSENT

    def die(self, *, clean: bool = False) -> None:
        assert self.sidecar is not None
        for host in self.hosts:
            if host.child_instance == self.sidecar.instance:
                host.child, host.child_instance = ("0" if clean else "-9"), ""
        if clean or self.record is RecordState.ABSENT:
            self.record = RecordState.ABSENT
        self.sidecar = None

    # --- time -----------------------------------------------------------------------------------------
    def pass_time(self) -> None:
        there = self.sidecar
        if there is None:
            return
        if there.ready_at <= self.now and self.record is RecordState.ABSENT:
            self.record = RecordState.VALID
        if there.draining_until and self.now >= there.draining_until:
            self.die(clean=True)

    def fault(self) -> None:
        what = self.rng.choice(FAULTS)
        self.counts[f"fault {what}"] += 1
        there = self.sidecar
        if what == "kill" and there is not None:
            self.die()
        elif what == "hang" and there is not None:
            there.hung, there.busy, there.loading = True, self.rng.random() < 0.3, self.rng.random() < 0.2
        elif what == "wake" and there is not None:
            there.hung = False
        elif what == "drain" and there is not None and not there.hung:
            there.draining_until = self.now + self.rng.choice((0.2, 3.0, 50.0))
        elif what == "sleep":
            self.now += self.rng.choice((30.0, 3600.0))
        elif what == "clock":
            self.skew += self.rng.choice((-86400.0, -30.0, 30.0, 1e6))
        elif what == "move":
            self.moved |= {h.name for h in self.hosts}
        elif what == "room":
            self.full = self.files = self.stranger = self.tester = False
            self.bad_exit = None
        elif what in ("full", "files", "stranger", "tester"):
            setattr(self, what, True)
        if self.rng.random() < 0.05:
            self.bad_exit = self.rng.choice((1, 3, 78, -6))


def play(seed: int, most: int) -> tuple[list[dict[str, Any]], collections.Counter[str]]:
    """Play one world; the schedules that its machines saw, each with the text of its steps."""
    rng = random.Random(seed)
    world = World(rng)
    policy = Policy(timeout=rng.choice((5.0, 90.0)), give_up=rng.choice((3, 8)))
    if rng.random() < 0.5:
        world.sidecar = Sidecar("f" * 32, 0.0, managed=rng.random() < 0.7, fits=rng.random() < 0.8, build="old")
        world.record = RecordState.VALID
    numbers = {"timeout": policy.timeout, "give_up": policy.give_up}
    for name in range(rng.choice((1, 2, 3))):
        goal = rng.choice((Goal.ENSURE, Goal.WATCH, Goal.WATCH, Goal.STOP))
        schedule: dict[str, Any] = {"goal": goal.value, "policy": numbers, "begin": 0.0}
        if goal is Goal.ENSURE:
            state = ensure(policy, 0.0)
        elif goal is Goal.STOP:
            schedule["force"] = rng.random() < 0.5
            state = stop(policy, 0.0, force=schedule["force"], joined=False)
        else:
            schedule["known"] = "f" * 32
            state = watch(policy, 0.0, "f" * 32, world.restarts)
        world.hosts.append(Host(name, state, schedule, rng.random(), build=rng.choice(("old", "new"))))
    for _ in range(most):
        live = [h for h in world.hosts if not h.state.outcome]
        if not live:
            break
        host = min(live, key=lambda h: h.next_look)
        world.now = max(world.now, host.next_look)
        if rng.random() < 0.04:
            world.fault()
        world.pass_time()
        turn(world, host)
    for host in world.hosts:
        host.schedule["steps"] = host.steps
    return [{**h.schedule, "lines": h.lines} for h in world.hosts], world.counts


def turn(world: World, host: Host) -> None:
    """One look of one host, as the manager does it."""
    seen = world.look(host)
    for action in step(world, host, seen):
        if not world.perform(host, action, seen):
            step(world, host, seen._replace(fault="the disk is full"))
            break
    if host.state.outcome in ("attached", "spawned"):
        assert world.sidecar is not None, "attached to nothing"
        assert seen.answer is HealthAnswer.ECHO, "attached to what doesn't answer as the sidecar"
        assert seen.fits, "attached to what doesn't meet the needs"
    if host.state.outcome:
        world.bring(replace_state(host))
    assert host.state.pause >= 0
    assert host.state.phase is not Phase.STARTING or host.state.goal is not Goal.STOP
    host.next_look = world.now + max(host.state.pause, 0.001)


def replace_state(host: Host) -> Host:
    """The host with its last wishes about locks: an ensure keeps its hold, nothing keeps launch.lock."""
    host.state = replace(host.state, launch=False)
    return host


def step(world: World, host: Host, seen: Seen) -> tuple[Action, ...]:
    """Take one step and write it down."""
    host.state, actions = machine.step(host.state, seen, world.now)
    host.steps.append([world.now, trace.seen_to_json(seen)])
    host.lines.append(trace.text_of(host.state, actions))
    return actions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60, help="most looks in a world")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no world after this time")
    parser.add_argument("--debug", action="store_true", help="the debug build of the Rust program")
    args = parser.parse_args()
    from tests.support import programs

    program = programs.build_rust(release=not args.debug)
    twin = subprocess.Popen([str(program), "machine"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert twin.stdin is not None
    assert twin.stdout is not None
    began, counts, done, steps, worlds = time.monotonic(), collections.Counter[str](), 0, 0, 0
    ends: collections.Counter[str] = collections.Counter()
    while done < args.schedules and time.monotonic() - began < args.seconds:
        batch: list[dict[str, Any]] = []
        for _ in range(20):
            schedules, seen = play(args.seed * 10_000_000 + worlds, args.steps)
            batch += schedules
            counts += seen
            worlds += 1
        lines = [schedule.pop("lines") for schedule in batch]
        for schedule, mine in zip(batch, lines, strict=True):
            twin.stdin.write(json.dumps(schedule | {"text": True}) + "\n")
            twin.stdin.flush()
            theirs = json.loads(twin.stdout.readline())["text"]
            if theirs != mine:
                at = next(n for n, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
                print(f"they differ at step {at}:\nPython {mine[at]}\nRust   {theirs[at]}")
                print(json.dumps({**schedule, "steps": schedule["steps"][: at + 1]}))
                return 1
            done += 1
            steps += len(mine)
            ends[(mine[-1].split("|")[-2] if mine else "") or "goes on"] += 1
    twin.stdin.close()
    twin.wait(30)
    print(f"seed {args.seed}: {done} schedules of {worlds} worlds, {steps} steps, the same in both languages")
    print("ends: " + ", ".join(f"{name} {n}" for name, n in sorted(ends.items())))
    print("actions and faults: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    print(f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
