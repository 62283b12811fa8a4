"""What the scheduling policy makes of a chat beside batch jobs on machines of known costs, by simulation.

    python -m benchmarks.frontier --svg docs/pictures/measured/frontier.svg

The policy is the engine's own (``sidecar.engine.scheduler``); the rest of the engine is played: each unit takes what
the machine's figures say. So many chats take seconds, and nothing but the policy's choices differs between two points.
For each machine the bound of a pass (``--slowdowns``) is varied with mixed passes and without; the point of the policy
as it is stands out. Figures are ratios, as in ``benchmarks.mixed``.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import clients
from sidecar.engine.actions import (
    Action,
    Begin,
    Decode,
    Idle,
    Prefill,
    Prefilling,
    View,
    Waiting,
    tier_of,
    without_batch,
)
from sidecar.engine.messages import Tier
from sidecar.engine.scheduler import LEFT_QUANTUM, Policy

CHAT, BATCH = Tier.INTERACTIVE, Tier.BATCH


@dataclass(frozen=True)
class Machine:
    """Seconds of a unit by its tokens, as {tokens: milliseconds}; between two sizes a line, beyond the last its slope.

    ``decode``: a step of so many rows. ``prefill``: a piece of a prompt by itself. ``mixed``: what so many tokens of
    prompts add to a step; None: as if they were rows. ``begin``: a prompt begun; ``move``: a row that joins or leaves.
    """

    name: str
    source: str
    decode: Mapping[int, float]
    prefill: Mapping[int, float]
    mixed: Mapping[int, float] | None = None
    begin: float = 0.0
    move: float = 0.0

    def step(self, rows: int, tokens: int = 0) -> float:
        """Return the seconds of a pass of ``rows`` rows and ``tokens`` of prompts."""
        if self.mixed is None:
            return at(self.decode, rows + tokens) / 1000
        return (at(self.decode, rows) + (at(self.mixed, tokens) if tokens else 0.0)) / 1000


def at(table: Mapping[int, float], size: int) -> float:
    """Return the value of a table at ``size``."""
    sizes = sorted(table)
    if size in table or len(sizes) == 1:
        return table.get(size, table[sizes[0]])
    place = min(max(bisect.bisect(sizes, size), 1), len(sizes) - 1)
    low, high = sizes[place - 1], sizes[place]
    return table[low] + (table[high] - table[low]) * (size - low) / (high - low)


PAUSE = 0.02
"""Seconds after which a unit of batch work by itself can be left (``sidecar.engine.aside``)."""

PRODUCTS = {
    **{1: 43, 2: 44, 3: 57, 4: 38, 5: 53, 6: 54, 7: 67, 8: 47, 9: 61, 10: 62, 11: 79, 12: 58, 13: 68, 14: 72, 15: 86},
    **{16: 64, 17: 77, 18: 79, 19: 93, 20: 73, 24: 81, 25: 95, 28: 89, 29: 104, 32: 99, 33: 115, 40: 124, 48: 143},
    **{64: 185, 128: 360},
}
"""Milliseconds of the starter's products of matrices alone by lines, on two cores: kernels work in tiles of four."""

MACHINES = (
    Machine(
        "two cores",
        "the starter in float32, two cores of a virtual machine: its products measured, the rest from a log",
        {lines: ms + (17 if lines == 1 else 25 + lines / 2) for lines, ms in PRODUCTS.items()},
        {1: 61, 16: 95, 18: 112, 32: 150, 64: 215, 128: 410},
        begin=3,
        move=12,
    ),
    Machine(
        "M2 Pro",
        "4 billion parameters in 4 bit by llama.cpp's published figures for 7 (38 tokens/s, 294 of a prompt)",
        {1: 15, 513: 1010},
        {1: 15, 513: 1010},
        begin=2,
        move=2,
    ),
    Machine(
        "H100",
        "Qwen3-VL-4B's shapes in 4 bit, measured; a mixed pass as on an H200, not profiled",
        {1: 10, 8: 13, 16: 17},
        {1: 14, 16: 17.5, 64: 24, 256: 29, 512: 46},
        {1: 100, 32: 110, 48: 147},
        begin=3,
        move=3,
    ),
)


@dataclass(eq=False)
class Request:
    """A request that is played. ``left``: of its prompt; ``times``: when its tokens were there."""

    id: int
    tier: Tier
    prompt: int
    answer: int
    arrived: float
    left: int = 0
    times: list[float] = field(default_factory=list)


@dataclass
class Work:
    """What the clients send: ``jobs`` at once, one after another, beside chats with pauses. Lengths in tokens."""

    jobs: int = 4
    chats: int = 40
    chat: tuple[int, int] = (16, 24)
    job: tuple[int, int] = (145, 32)
    round_trip: float = 0.01


class Engine:
    """An engine on a machine: the real policy decides, time passes by the machine's figures."""

    def __init__(self, machine: Machine, policy: Policy, work: Work, *, mixes: bool, pause: float) -> None:
        self.machine, self.policy, self.mixes = machine, policy, mixes
        self.now = 0.0
        self.waiting: dict[int, Request] = {}
        self.begun: dict[int, list[Request]] = {}  # by the id of the first
        self.rows: list[Request] = []
        self.shared: list[Request] = []
        self._before: dict[Tier, list[Request]] = {tier: [] for tier in Tier}  # the rows of the last pass of each
        self.done: list[Request] = []
        self.due: list[tuple[float, Tier]] = []
        self.slice = pause
        self.rest = 0.0
        self._ids = itertools.count(1)
        self._work = work

    def arrive(self) -> None:
        """Queue what has arrived by now."""
        for when, tier in [d for d in self.due if d[0] <= self.now]:
            prompt, answer = self._work.chat if tier is CHAT else self._work.job
            request = Request(next(self._ids), tier, prompt, answer, when, left=prompt)
            self.waiting[request.id] = request
            self.due.remove((when, tier))

    def view(self) -> View:
        """Return what the policy sees."""
        return View(
            waiting=tuple(
                Waiting(id=r.id, tier=r.tier, priority=0, arrived=r.arrived, tokens=r.prompt)
                for r in self.waiting.values()
            ),
            prefilling=tuple(
                Prefilling(
                    id=key,
                    tier=group[0].tier,
                    priority=0,
                    arrived=group[0].arrived,
                    remaining=max(r.left for r in group),
                    rows=len(group),
                    mixes=self.mixes,
                )
                for key, group in self.begun.items()
            ),
            rows={tier: sum(r.tier is tier for r in self.rows) for tier in Tier},
            shared_rows=len(self.shared),
            can_mix=self.mixes,
        )

    def step(self) -> bool:
        """Carry out one decision; False where there is nothing to do."""
        view = self.view()
        action = self.policy.decide(view)
        if isinstance(action, Idle):
            return False
        kind, size, rows, seconds = self._do(action)
        if self.slice and tier_of(action, view) is BATCH and not view.rows[CHAT] and not isinstance(action, Begin):
            self.rest = self._interrupted(seconds)
        else:
            self.now += seconds
        for request in [r for r in self.rows if len(r.times) >= r.answer]:
            self.rows.remove(request)
            self.done.append(request)
            self.now += self.machine.move / 1000
        self.shared = [r for r in self.shared if r in self.rows]
        self.policy.done(action, view, seconds)
        self.policy.costs.learn_unit(kind, size, seconds, rows=rows)
        self.policy.spent += self.rest
        self.rest = 0.0
        return True

    def _interrupted(self, seconds: float) -> float:
        """Let a unit of batch work pass; a chat that arrives meanwhile has its prompt processed at its next pause."""
        end = self.now + seconds
        due = min((when for when, tier in self.due if tier is CHAT), default=end)
        if due >= end:
            self.now = end
            return 0.0
        paused = min(end, self.now + math.ceil((due - self.now) / self.slice) * self.slice)
        self.now = paused
        self.arrive()
        while isinstance(action := self.policy.decide(view := without_batch(self.view())), Begin | Prefill):
            kind, size, _, took = self._do(action)
            self.now += took
            self.policy.done(action, view, took)
            self.policy.costs.learn_unit(kind, size, took)
        rest, spent, own = end - paused, 0.0, self.machine.step(1)
        chats = [r for r in self.rows if r.tier is CHAT and len(r.times) < r.answer]
        while rest > 0:
            took = min(self.slice, rest)
            if chats and not self.policy.bears(self.view(), spent + took):
                self.now, spent = self.now + own, 0.0
                for chat in chats:
                    chat.times.append(self.now)
            self.now, spent, rest = self.now + took, spent + took, rest - took
        return spent

    def _do(self, action: Action) -> tuple[str, int, int, float]:
        if isinstance(action, Begin):
            group = [self.waiting.pop(key) for key in (action.id, *action.group_with)]
            self.begun[action.id] = group
            return ("begin", 1, 0, self.machine.begin / 1000) if len(group) == 1 else ("", 0, 0, 0.001)
        if isinstance(action, Prefill):
            done = self._process(action.id, action.tokens)
            seconds = at(self.machine.prefill, done) / 1000
            self._first_tokens(seconds)
            return "prefill", done, 0, seconds
        assert isinstance(action, Decode)
        own = [r for r in self.rows if r.tier is action.tier]
        if action.tier is CHAT:
            others = sorted((r for r in self.rows if r.tier is BATCH), key=lambda r: r.arrived)
            self.shared = others[: action.shared_rows]
            own += self.shared
        else:
            self.shared = []
        before = self._before[action.tier]
        moved, settled = len(set(own) - set(before)), own == before
        tokens = sum(self._process(key, count) for key, count in action.pieces)
        seconds = self.machine.step(len(own), tokens) + moved * self.machine.move / 1000
        for request in own:
            request.times.append(self.now + seconds)
        self._first_tokens(seconds)
        self._before[action.tier] = own
        for other in Tier:
            if other is not action.tier:
                self._before[other] = [r for r in self._before[other] if r not in own]
        kind = ("mixed" if tokens else "decode") if settled else ""
        return kind, tokens or len(own), len(own), seconds

    def _process(self, key: int, tokens: int) -> int:
        group = self.begun[key]
        done = min(tokens, max(r.left for r in group))
        for request in group:
            request.left -= done
        return done * len(group)

    def _first_tokens(self, seconds: float) -> None:
        for key, group in list(self.begun.items()):
            if all(r.left <= 0 for r in group):
                self.rows += self.begun.pop(key)
                for request in group:
                    request.times.append(self.now + seconds)


@dataclass(frozen=True)
class Figures:
    """The columns of ``benchmarks.mixed``: ratios to the same machine idle, and tokens a second of batch work."""

    ttft: float
    ttft_max: float
    mean: float
    gap: float
    batch: float


def play(machine: Machine, policy: Policy, work: Work, *, mixes: bool, pause: float = 0.0, warm: int = 3) -> Figures:
    """Play ``work`` and return its figures; the first ``warm`` chats, in which costs are learnt, don't count.

    ``pause``: seconds after which a unit of batch work by itself can be left for a chat that arrives; 0 where it can't.
    """
    engine = Engine(machine, policy, work, mixes=mixes, pause=pause)
    engine.due = [(0.0, BATCH)] * work.jobs + [(3.0, CHAT)]
    chats: list[Request] = []
    seen = 0
    while len(chats) < work.chats + warm:
        engine.arrive()
        if not engine.step():
            engine.now = max(engine.now, min(when for when, _ in engine.due))
        for request in engine.done[seen:]:
            wait = work.round_trip
            if request.tier is CHAT:
                wait = 0.2 + 0.13 * (len(chats) % 4)
                chats.append(request)
            engine.due.append((engine.now + wait, request.tier))
        seen = len(engine.done)
    counted = chats[warm:]
    begin = counted[0].arrived
    first = at(machine.prefill, work.chat[0]) / 1000 + machine.begin / 1000
    token = machine.step(1)
    waits = [(c.times[0] - c.arrived) / first for c in counted]
    gaps = [(b - a) / token for c in counted for a, b in itertools.pairwise(c.times)]
    tokens = sum(t >= begin for r in (*engine.done, *engine.rows) if r.tier is BATCH for t in r.times)
    return Figures(
        statistics.median(waits),
        max(waits),
        statistics.fmean(gaps),
        max(gaps),
        tokens / (engine.now - begin),
    )


@dataclass(frozen=True)
class Point:
    """A policy's figures on a machine. ``slowdown``: its bound; ``mixes``: whether prompts shared passes."""

    machine: Machine
    slowdown: float
    mixes: bool
    figures: Figures


def points(machines: Sequence[Machine], slowdowns: Sequence[float], work: Work) -> Iterator[Point]:
    """Give the figures of each machine by bound of a pass, with mixed passes and without."""
    for machine in machines:
        for mixes in (False, True):
            for slowdown in slowdowns:
                policy = Policy(slowdown=slowdown, alone=LEFT_QUANTUM)
                figures = play(machine, policy, work, mixes=mixes, pause=PAUSE)
                yield Point(machine, slowdown, mixes, figures)


def row(point: Point) -> list[str]:
    """Return one line of the table."""
    f = point.figures
    numbers = [f"{f.ttft:.2f}", f"{f.ttft_max:.2f}", f"{f.mean:.2f}", f"{f.gap:.1f}", f"{f.batch:.1f}"]
    return [point.machine.name, "mixed" if point.mixes else "apart", f"{point.slowdown:g}", *numbers]


def svg(found: Sequence[Point], chosen: float) -> str:
    """Return a drawing: a panel a machine, batch tokens a second over the chat's mean token; ``chosen`` stands out."""
    width, height, left, top = 330, 260, 55, 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(MACHINES) * width} {height + 20}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{len(MACHINES) * width}" height="{height + 20}" fill="#fff"/>',
    ]
    for number, machine in enumerate(MACHINES):
        mine = [p for p in found if p.machine is machine]
        high = max(p.figures.batch for p in mine) * 1.1
        wide = max(p.figures.mean for p in mine) * 1.05 - 1.0
        x0, y0 = number * width + left, height - 30

        def place(
            f: Figures, x0: int = x0, y0: int = y0, wide: float = wide, high: float = high
        ) -> tuple[float, float]:
            x = x0 + (f.mean - 1.0) / wide * (width - left - 20)
            return x, y0 - f.batch / high * (y0 - top)

        out.append(f'<text x="{x0}" y="20" font-size="14">{machine.name}</text>')
        out.append(f'<path d="M{x0} {top} V{y0} H{x0 + width - left - 20}" stroke="#888" fill="none"/>')
        out.append(f'<text x="{x0}" y="{top - 8}">batch tokens/s, up to {high:.0f}</text>')
        out.append(f'<text x="{x0}" y="{y0 + 18}">mean token ÷ idle: 1 to {wide + 1:.1f}</text>')
        for mixes, colour in ((False, "#e0822f"), (True, "#2e9d63")):
            line = [(p, *place(p.figures)) for p in mine if p.mixes is mixes]
            path = " ".join(f"{x:.1f},{y:.1f}" for _, x, y in line)
            out.append(f'<polyline points="{path}" stroke="{colour}" fill="none"/>')
            for p, x, y in line:
                out.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if p.slowdown == chosen else 3}" fill="{colour}"/>'
                )
    out.append(
        f'<text x="{left}" y="{height + 12}">green: mixed passes; orange: apart; large: the bound as it is</text>'
    )
    return "\n".join([*out, "</svg>\n"])


def main() -> int:
    """Play and print."""
    chosen = Policy().slowdown
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slowdowns", type=float, nargs="+", default=[1.3, 1.5, 1.6, chosen, 1.8, 2.0])
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--svg", type=Path, help="where the drawing goes")
    args = parser.parse_args()
    found = list(points(MACHINES, args.slowdowns, Work(jobs=args.jobs)))
    head = ["machine", "passes", "bound", "TTFT ÷ idle", "max", "mean token ÷ idle", "longest gap", "batch tok/s"]
    sys.stdout.write(clients.table(head, [row(point) for point in found]) + "\n")
    for machine in MACHINES:
        sys.stdout.write(f"{machine.name}: {machine.source}\n")
    if args.svg is not None:
        args.svg.write_text(svg(found, chosen), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
