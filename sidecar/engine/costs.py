"""What the engine's units of work cost, measured on the machine it runs on."""

from __future__ import annotations

import bisect

CHUNKS = (16, 32, 64, 128, 256, 512, 1024, 2048)
"""Sizes a prompt is cut to, tokens."""


def chunk_class(tokens: int) -> int:
    """Return the chunk size a number of tokens counts as, for costs."""
    return next((size for size in CHUNKS if tokens <= size), CHUNKS[-1])


class Costs:
    """Measured durations, seconds: exponentially weighted, by kind of work and size.

    The first of a kind often pays for kernels being compiled, seconds in place of milliseconds; what is measured
    after that counts for more when it is less.
    """

    WEIGHT = 0.3
    WEIGHT_DOWN = 0.6

    def __init__(self) -> None:
        self._known: dict[str, dict[int, float]] = {}

    def learn(self, kind: str, size: int, seconds: float) -> None:
        """Record how long a unit took. One that took over 5 times what is known counts as twice that."""
        known = self._known.setdefault(kind, {})
        old = known.get(size)
        if old is None:
            known[size] = seconds
        else:
            weight = self.WEIGHT if seconds > old else self.WEIGHT_DOWN
            known[size] = old + weight * (min(seconds, 5 * old) - old)

    def learn_prefill(self, tokens: int, seconds: float) -> None:
        """Record a piece of prompt, under the size it is nearest to; a few tokens say too little."""
        if tokens < CHUNKS[0] * 3 // 4:
            return
        above = chunk_class(tokens)
        size = above if tokens >= above * 3 // 4 else max(s for s in CHUNKS if s <= tokens)
        self.learn("prefill", size, seconds * size / tokens)

    def of(self, kind: str, size: int) -> float:
        """Predict the seconds of a unit, 0 when nothing is known of its kind.

        The least that any known size allows: no unit costs more than a larger one, nor more than as many smaller ones.
        So one bad measurement of a size that is then avoided does no lasting harm. Nor does it cost more than the line
        through known sizes says, up to twice the largest: where much of a cost is there whatever the size, a larger one
        is tried, and known then.
        """
        known = self._known.get(kind, {})
        least = min((seconds * max(1.0, size / s) for s, seconds in known.items()), default=0.0)
        if len(known) < 2 or size < min(known):
            return least
        reach = min(size, 2 * max(known))
        return min(least, _line(known, reach) * size / reach)

    def knows(self, kind: str, size: int) -> bool:
        """Return whether a unit of just this size was measured."""
        return size in self._known.get(kind, {})

    def decode(self, rows: int) -> float:
        """Predict the seconds of one token for each of ``rows`` rows decoded together; 0 when nothing is known.

        What was measured lies nearly on a line, for the weights are read once whatever the rows: other sizes are read
        off the line through the two nearest. A single known size stands for all, so that others are tried.
        """
        known = self._known.get("decode", {})
        if not (known and rows):
            return 0.0
        if rows in known or len(known) == 1:
            return known.get(rows, next(iter(known.values())))
        return max(_line(known, rows), known[min(known)] * min(1.0, rows / min(known)))


def _line(known: dict[int, float], size: int) -> float:
    """Return the seconds at ``size`` on the line through the two known sizes nearest to it; it never falls."""
    sizes = sorted(known)
    at = min(max(bisect.bisect(sizes, size), 1), len(sizes) - 1)
    low, high = sizes[at - 1], sizes[at]
    slope = max(0.0, (known[high] - known[low]) / (high - low))
    return known[low] + slope * (size - low)
