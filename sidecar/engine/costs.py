"""What the engine's units of work cost, measured on the machine it runs on."""

from __future__ import annotations

import bisect

CHUNKS = (16, 32, 64, 128, 256, 512, 1024, 2048)
"""Sizes a prompt is cut to, tokens."""


LINES = (*range(4, 65, 4), 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024, 2048)
"""Sizes that passes of rows and pieces of prompts are filled up to, lines (tokens of either). Kernels that multiply
matrices work in tiles: on two cores 7 lines took 67 ms, 8 took 47 and 9 61."""


FINE = 64
"""Lines up to which a pass is known by their very number: there each dozen has a price of its own."""


DOUBT = 0.999
"""What is left at each step of a measured price that keeps pieces of prompts out of shared passes."""

REGRET = 0.4
"""Seconds that shared passes may have cost more than their parts apart before prompts stay out of them."""

CLEARLY = 1.05
"""How many times as much work two sizes in turns must do to be taken in place of one: passes alike are smoother."""

HELD_UP = 2
"""By how many times its parts a shared pass may be late before all of that counts, not half of its parts' time."""


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
        self._regret = 0.0  # seconds that passes shared by prompts took longer than their parts by themselves would

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
        if known and size < min(known) and kind == "prefill":
            # Of a piece smaller than any known, a decode step's time is for reading the weights, the rest for tokens.
            smallest, step = known[min(known)], self.decode(1)
            return min(least, step + (smallest - step) * size / min(known)) if 0 < step < smallest else least
        if len(known) < 2 or size < min(known):
            return least
        reach = min(size, 2 * max(known))
        return min(least, _line(known, reach) * size / reach)

    def learn_unit(self, kind: str, size: int, seconds: float, *, rows: int = 0) -> None:
        """Record a unit of any kind; "" teaches nothing. ``rows``: of a mixed pass."""
        if kind == "prefill":
            self.learn_prefill(size, seconds)
        elif kind == "mixed":
            self.learn_mixed(rows, size, seconds)
        elif kind:
            self.learn(kind, size, seconds)

    def learn_mixed(self, rows: int, tokens: int, seconds: float) -> None:
        """Record a pass of ``rows`` rows and ``tokens`` of prompts, under its lines and by what it lost or saved."""
        own, by_itself = self.decode(rows), self.of("prefill", tokens)
        if not own:
            return
        lines = rows + tokens if rows + tokens <= FINE else _line_class(rows + tokens)
        apart = own + by_itself
        if by_itself:
            lost = seconds - apart
            # What other programs held up takes up to some times as long, and says little.
            self._regret = max(0.0, self._regret + (lost if lost > HELD_UP * apart else min(lost, apart / 2)))
            if self._regret >= REGRET:  # for a good while
                self._regret = max(self._regret, 4 * REGRET)
            if not self.knows("lines", lines):
                seconds = min(seconds, 1.6 * HELD_UP * apart)  # so that it is tried again
        self.learn("lines", lines, seconds)

    def mixed(self, rows: int, tokens: int) -> float:
        """Predict the seconds of a pass of ``rows`` rows and ``tokens`` of prompts.

        Until one was measured the two are taken to cost what they cost apart. Then a pass costs by its lines, whoever
        they belong to: the first dozen of them are dear, the next cheap, so what tokens add depends on the rows that
        are there. Between known sizes it is read off a line; beyond the largest a line more adds what it adds to a
        prompt alone. No pass costs more than a larger one.
        """
        own, lines = self.decode(rows), self._known.get("lines", {})
        if not tokens:
            return own
        if not lines:
            return own + self.of("prefill", tokens)
        size = rows + tokens
        known = {n: seconds for n, seconds in self._known["decode"].items() if n < min(lines)} | lines
        larger = min((seconds for n, seconds in lines.items() if n >= size), default=float("inf"))
        below = max(n for n in (*known, rows) if n <= size or n == rows)
        base = max(own, known.get(below, own))
        if size <= max(known):
            likely = max(own, _line({rows: own, **known}, size))
        else:
            likely = base + self.of("prefill", size) - self.of("prefill", below)
        return min(likely, max(own, larger))

    @property
    def mixing_pays(self) -> bool:
        """Return whether pieces in passes of rows have cost no more, so far, than by themselves, or nearly so.

        On a CPU they don't, for the weights are read once. On an H200 a shared pass took 120 ms where a step took 13
        and the piece by itself 30: more kernels are launched, one by one. What passes took too long is summed up, and
        what they saved taken off: a few that other programs held up say nothing, one that is dear by far enough.
        """
        lines, own = self._known.get("lines", {}), self.decode(1)
        bearable = (seconds <= HELD_UP * (own + self.of("prefill", n - 1)) for n, seconds in lines.items())
        return self._regret < REGRET and (not lines or any(bearable))

    def doubt_mixed(self) -> None:
        """Believe a little less in what shared passes cost: after some hundred steps dear ones are tried again.

        The first of a shape may have paid for kernels being compiled.
        """
        self._regret *= DOUBT
        known = self._known.get("lines", {})
        for size in known:
            known[size] *= DOUBT

    def piece(self, rows: int, seconds: float) -> int:
        """Return how many tokens of prompts go along with ``rows`` rows in a pass of ``seconds``; 0 where none do."""
        return max((n - rows for n in LINES if n > rows and self.mixed(rows, n - rows) <= seconds), default=0)

    def bargain(self, rows: int, seconds: float, most: float) -> int:
        """Return how many tokens of prompts go along in a pass that may take ``seconds`` now and ``most`` at any time.

        Only sizes that no two others, taken in turns, beat for the same time: where 15 tokens cost little more than
        7, seven now and fifteen later is better than eleven twice.
        """
        best: list[tuple[float, int]] = [(self.mixed(rows, 0), 0)]  # the upper hull of tokens over seconds
        for tokens in (n - rows for n in LINES if n > rows):
            cost = self.mixed(rows, tokens)
            if cost > most:
                break
            while best and (cost <= best[-1][0] or (len(best) > 1 and _beaten(best[-2], best[-1], (cost, tokens)))):
                best.pop()
            best.append((cost, tokens))
        return max((tokens for cost, tokens in best if cost <= seconds), default=0)

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


def _beaten(below: tuple[float, int], point: tuple[float, int], above: tuple[float, int]) -> bool:
    """Return whether ``below`` and ``above`` in turns process clearly more tokens in the time of ``point``.

    Points are of (seconds, tokens).
    """
    slope = (above[1] - below[1]) / (above[0] - below[0])
    return below[1] + slope * (point[0] - below[0]) > point[1] * CLEARLY


def filled(rows: int, tokens: int) -> int:
    """Return how many tokens, ``tokens`` at least, fill a pass of ``rows`` rows up to a size of ``LINES``."""
    return _line_class(rows + tokens) - rows


def _line_class(lines: int) -> int:
    return next((size for size in LINES if lines <= size), lines)


def _line(known: dict[int, float], size: int) -> float:
    """Return the seconds at ``size`` on the line through the two known sizes nearest to it; it never falls."""
    sizes = sorted(known)
    at = min(max(bisect.bisect(sizes, size), 1), len(sizes) - 1)
    low, high = sizes[at - 1], sizes[at]
    slope = max(0.0, (known[high] - known[low]) / (high - low))
    return known[low] + slope * (size - low)
