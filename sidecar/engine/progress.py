"""What is told of requests before their first token: their place, their pictures, their prompt, the seconds left.

The engine's thread looks at its queues a few times a second and leaves a tuple that another thread sends. Seconds left
are measured, not promised. Seconds over a prompt's tokens follow ``a * n + b * n * n`` (the weights, and attention to
what came before). This curve is fitted to each prompt that is through, with all that the engine did beside it, and kept
for the next. A prompt that is being processed stretches it by how much slower or faster than the curve it went so far:
its own first tenth alone says nothing of ``b``, and the costs of units of work were measured at short prompts, so that
both told half of what it took. Until one prompt is through, those two are all there is.

A timeline, a prompt of 8,000 tokens behind another that has 2 s left, with 1 ms a token and 0.05 ms more each thousand:

    0.0 s   queued, 1 ahead, 13.2 s left by the curve
    2.1 s   its first piece; 11.2 s left
    3.0 s   800 tokens in 0.9 s where the curve has 0.83: 10.8 s left
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
_TELLING = 256  # tokens from which a prompt's curve says something of others
_DOUBTED = 256.0  # tokens of which a prompt's own pace counts as much as that of earlier ones


@dataclass(frozen=True)
class Curve:
    """Seconds of a prompt's tokens by their place: ``a`` a token, and ``b`` times the square of what is processed."""

    a: float
    b: float

    def between(self, first: float, last: float) -> float:
        """Return the seconds from the token at ``first`` to that at ``last``."""
        return self.a * (last - first) + self.b * (last * last - first * first)

    def towards(self, other: Curve) -> Curve:
        """Return the curve half way to ``other``: one prompt beside much else doesn't change all that is told."""
        return Curve((self.a + other.a) / 2, (self.b + other.b) / 2)


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

    def left(self, remaining: int, now: float, usual: Curve | None = None) -> float | None:
        """Return the seconds until ``remaining`` more tokens are processed, None while nothing is known.

        ``usual``: what earlier prompts took.
        """
        done, seconds = self.points[-1] if self.points else (0.0, 0.0)
        at = self.first + done
        if usual is None:
            if not self.points:
                return None
            left = self.curve().between(at, at + remaining)
        else:
            left = usual.between(at, at + remaining)
            if seconds > 0 and (expected := usual.between(self.first, at)) > 0:
                weight = done / (done + _DOUBTED)  # a short stretch may have met anything
                left *= (seconds / expected) ** weight
        return max(0.0, left - (now - self.started - seconds))

    def curve(self) -> Curve:
        """Return the curve through what it took so far."""
        return Curve(*fitted(self.points, self.first))


def fitted(points: Sequence[tuple[float, float]], first: int = 0) -> tuple[float, float]:
    """Return ``a`` and ``b`` of a curve by least squares, neither below zero. ``first``: where the tokens begin."""
    rows = [(n, n * n + 2 * first * n, t) for n, t in points]
    s11 = sum(x * x for x, _, _ in rows)
    s12 = sum(x * y for x, y, _ in rows)
    s22 = sum(y * y for _, y, _ in rows)
    t1 = sum(x * t for x, _, t in rows)
    t2 = sum(y * t for _, y, t in rows)
    det = s11 * s22 - s12 * s12
    if len(points) >= 3 and det > 1e-9 * s11 * s22:
        a, b = (t1 * s22 - t2 * s12) / det, (s11 * t2 - s12 * t1) / det
        if a >= 0 and b >= 0:
            return a, b
        if a < 0:
            return 0.0, t2 / s22
    return t1 / s11, 0.0


class Watch:
    """Looks at one model's queues. ``blocks`` of the vision tower stand for the pictures' part."""

    def __init__(self) -> None:
        self._paces: dict[int, Pace] = {}
        self.usual: Curve | None = None

    def learn(self, pace: Pace) -> None:
        """Take what a prompt took that is through, for the next ones."""
        if len(pace.points) >= 3 and pace.points[-1][0] >= _TELLING:
            new = pace.curve()
            self.usual = new if self.usual is None else self.usual.towards(new)

    def seconds(self, costs: Costs, tokens: int) -> float | None:
        """Return what a whole prompt will take, None when nothing is known."""
        return prompt_seconds(costs, tokens) if self.usual is None else self.usual.between(0, tokens)

    def look(self, runner: ModelRunner, now: float) -> list[Progress]:
        """Return how far each request without a first token is, the next first."""
        begun = [*self._reading(runner, now), *self._seeing(runner)]
        ahead: float | None = 0.0
        stage = runner.stage
        heads = {p.requests[0].job for p in stage.prefills.values()} | {e.request.job for e in stage.encoding}
        for one in {p.id: p for p in begun if p.id in heads}.values():  # a group is processed in one go
            ahead = _sum(ahead, one.seconds_left)
        prompts = len(stage.prefills) + len(stage.encoding)
        return [p for p in (*begun, *self._queued(runner, prompts, ahead)) if p.id]

    def _reading(self, runner: ModelRunner, now: float) -> list[Progress]:
        """Return how far the prompts being processed are."""
        out: list[Progress] = []
        alive: dict[int, Pace] = {}
        for prefill in sorted(runner.stage.prefills.values(), key=lambda p: p.requests[0].tier):
            number = prefill.requests[0].id
            pace = alive[number] = self._paces.get(number) or Pace(now, prefill.processed)
            pace.note(now, prefill.processed)
            left = pace.left(prefill.remaining, now, self.usual)
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
        for number, pace in self._paces.items():
            if number not in alive:
                self.learn(pace)
        self._paces = alive
        return out

    def _seeing(self, runner: ModelRunner) -> list[Progress]:
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
                    seconds_left=_rounded(_sum(left, self.seconds(runner.policy.costs, tokens))),
                )
            )
        return out

    def _queued(self, runner: ModelRunner, before: int, ahead: float | None) -> list[Progress]:
        """Return the places of what waits: ``before`` prompts go first, in ``ahead`` seconds."""
        out = []
        queue = sorted(runner.waiting.values(), key=lambda r: (r.tier, r.priority, r.arrived, r.id))
        for place, request in enumerate(queue):
            own = self.seconds(runner.policy.costs, len(request.prompt.tokens))
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
