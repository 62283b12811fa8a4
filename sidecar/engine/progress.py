"""What is told of requests before their first token: their place, their pictures, their prompt, the seconds left.

The engine's thread looks at its queues a few times a second and leaves a tuple that another thread sends. Seconds left
are measured, not promised. Of a prompt that is being processed they come from its own pace, with all that the engine
does beside it: seconds over tokens follow ``a * n + b * n * n`` (the weights, and attention to what came before),
fitted to its steps so far. Before there are such, and for what still waits, they come from the costs of units of work.

A timeline, a prompt of 8,000 tokens behind another that has 2 s left, with 1 ms a token measured:

    0.0 s   queued, 1 ahead, 10 s left
    2.1 s   its first piece; no pace yet, 8 s left by the costs
    2.9 s   800 tokens in 0.7 s, and each piece takes a little longer than the last: 9.2 s left by its own pace
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.engine.control import Progress
from sidecar.engine.costs import Costs, chunk_class
from sidecar.engine.rows import GenerationRequest

if TYPE_CHECKING:
    from sidecar.engine.runner import ModelRunner

EVERY = 0.15
"""Seconds between two looks."""
_POINTS = 64
_USUAL_CHUNK = 512  # tokens of a piece where nothing streams beside it


@dataclass
class Pace:
    """How one prompt got on: seconds since its first piece, by tokens processed."""

    started: float
    first: int
    points: list[tuple[float, float]] = field(default_factory=list)  # tokens since the first look, seconds

    def note(self, now: float, processed: int) -> None:
        """Record where the prompt is; the same place again says nothing new."""
        tokens = processed - self.first
        if tokens > 0 and (not self.points or tokens > self.points[-1][0]):
            self.points.append((float(tokens), now - self.started))
            if len(self.points) > _POINTS:
                del self.points[1::2]

    def left(self, remaining: int, now: float) -> float | None:
        """Return the seconds until ``remaining`` more tokens are processed, None while nothing is known."""
        if not self.points:
            return None
        a, b = fitted(self.points)
        done = self.points[-1][0]
        whole = done + remaining
        left = a * (whole - done) + b * (whole * whole - done * done)
        return max(0.0, left - (now - self.started - self.points[-1][1]))


def fitted(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return ``a`` and ``b`` of seconds = a * n + b * n * n by least squares, neither below zero."""
    s2 = sum(n * n for n, _ in points)
    s3 = sum(n**3 for n, _ in points)
    s4 = sum(n**4 for n, _ in points)
    t1 = sum(n * t for n, t in points)
    t2 = sum(n * n * t for n, t in points)
    det = s2 * s4 - s3 * s3
    if len(points) >= 3 and det > 1e-9 * s2 * s4:
        a, b = (t1 * s4 - t2 * s3) / det, (s2 * t2 - s3 * t1) / det
        if a >= 0 and b >= 0:
            return a, b
        if a < 0:
            return 0.0, t2 / s4
    return t1 / s2, 0.0


class Watch:
    """Looks at one model's queues. ``blocks`` of the vision tower stand for the pictures' part."""

    def __init__(self) -> None:
        self._paces: dict[int, Pace] = {}

    def look(self, runner: ModelRunner, now: float) -> list[Progress]:
        """Return how far each request without a first token is, the next first."""
        begun = [*self._reading(runner, now), *_seeing(runner)]
        ahead: float | None = 0.0
        stage = runner.stage
        heads = {p.requests[0].job for p in stage.prefills.values()} | {e.request.job for e in stage.encoding}
        for one in {p.id: p for p in begun if p.id in heads}.values():  # a group is processed in one go
            ahead = _sum(ahead, one.seconds_left)
        prompts = len(stage.prefills) + len(stage.encoding)
        return [p for p in (*begun, *_queued(runner, prompts, ahead)) if p.id]

    def _reading(self, runner: ModelRunner, now: float) -> list[Progress]:
        """Return how far the prompts being processed are."""
        out: list[Progress] = []
        alive: dict[int, Pace] = {}
        for prefill in sorted(runner.stage.prefills.values(), key=lambda p: p.requests[0].tier):
            number = prefill.requests[0].id
            pace = alive[number] = self._paces.get(number) or Pace(now, prefill.processed)
            pace.note(now, prefill.processed)
            left = pace.left(prefill.remaining, now)
            if left is None:
                left = prompt_seconds(runner.policy.costs, prefill.remaining * len(prefill.requests))
            out += [
                Progress(
                    id=request.job,
                    stage="prompt",
                    tokens_done=max(prefill.processed, prefill.cached_tokens),
                    tokens=prefill.processed + prefill.remaining,
                    pictures=pictures_of(request),
                    picture=pictures_of(request),
                    seconds_left=_rounded(left),
                )
                for request in prefill.requests
            ]
        self._paces = alive
        return out


def _seeing(runner: ModelRunner) -> list[Progress]:
    """Return how far the pictures being looked at are."""
    out = []
    for encoding in runner.stage.encoding:
        request, depth = encoding.request, max(1, runner.stage.blocks)
        pictures, tokens = pictures_of(request), len(request.prompt.tokens)
        left = _cost(runner.policy.costs, "encode", depth - encoding.blocks % depth)
        out.append(
            Progress(
                id=request.job,
                stage="pictures",
                picture=min(pictures, encoding.blocks // depth + 1),
                pictures=pictures,
                part=round((encoding.blocks % depth) / depth, 3),
                tokens=tokens,
                seconds_left=_rounded(_sum(left, prompt_seconds(runner.policy.costs, tokens))),
            )
        )
    return out


def _queued(runner: ModelRunner, before: int, ahead: float | None) -> list[Progress]:
    """Return the places of what waits: ``before`` prompts go first, in ``ahead`` seconds."""
    out = []
    queue = sorted(runner.waiting.values(), key=lambda r: (r.tier, r.priority, r.arrived, r.id))
    for place, request in enumerate(queue):
        own = prompt_seconds(runner.policy.costs, len(request.prompt.tokens))
        if pictures_of(request):
            own = _sum(own, _cost(runner.policy.costs, "encode", max(1, runner.stage.blocks)))
        ahead = _sum(ahead, own)
        out.append(
            Progress(
                id=request.job,
                stage="queued",
                ahead=before + place,
                pictures=pictures_of(request),
                tokens=len(request.prompt.tokens),
                seconds_left=_rounded(ahead),
            )
        )
    return out


def pictures_of(request: GenerationRequest) -> int:
    """Return how many pictures a prompt has."""
    return len(request.prompt.sent)


def prompt_seconds(costs: Costs, tokens: int) -> float | None:
    """Return what so many tokens of a prompt cost by what was measured, None when nothing was."""
    whole, rest = divmod(max(1, tokens), _USUAL_CHUNK)
    piece = costs.of("prefill", _USUAL_CHUNK)
    if not piece:
        return None
    return whole * piece + (costs.of("prefill", chunk_class(rest)) if rest else 0.0)


def _cost(costs: Costs, kind: str, count: int) -> float | None:
    one = costs.of(kind, 1)
    return one * count if one else None


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
