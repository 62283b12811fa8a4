"""Nobody waits for memory without end. Pure; the clock is given.

What does not fit waits while others that fit pass it by, and on a machine that is always full of short chats a long one
never fits: a job of 1,400 tokens saw eight clients' chats go by for five minutes. Another of 326 did fit, and was set
aside for one chat after the other: in two minutes it had its prompt processed five times, and got five tokens.

So a chat that does not fit for ``CHAT`` seconds is late, and so is a batch job that is ``BATCH`` seconds old. Who is
late and does not fit holds back those that came after it (and, a batch job, chats that were not begun) until what runs
has ended and there is room. The prompt of a job that is late, and its row for ``TENURE`` seconds, make way for nobody.
After that a chat may have their room again, and in ``BATCH`` seconds more the job is late once more.

    0 s     a job of 1,434 tokens comes; chats run, and it doesn't fit beside them
    60 s    it is late: chats that come now wait
    66 s    the last chat has ended that was too much beside it; it begins, and chats begin beside it as far as they fit
    74 s    its prompt is done: for 60 s it gives its tokens with the chats'
    134 s   it makes way again, if a chat needs its room, until it is late at 194 s
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from sidecar.engine.messages import Tier
from sidecar.engine.rows import GenerationRequest

CHAT = 10.0
"""Seconds for which a chat does not fit after which it is late."""

BATCH = 60.0
"""Seconds after which a batch job is late."""

TENURE = 60.0
"""Seconds for which the row of a batch job that is late makes way for nobody."""

_FORGOTTEN = 3600.0


class Patience:
    """Who is late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._chats: dict[int, float] = {}  # since when they don't fit
        self._due: dict[int, float] = {}  # when jobs are late
        self._until: dict[int, float] = {}  # when their tenure ends

    def held_back(self, waiting: Iterable[GenerationRequest], fit: set[int]) -> set[int]:
        """Return which of those who ``fit`` wait all the same, for one that is late."""
        now, waiting = self._clock(), list(waiting)
        chats = [r for r in waiting if r.tier is Tier.INTERACTIVE]
        self._chats = {r.id: self._chats.get(r.id, now) for r in chats if r.id in self._chats or r.id not in fit}
        late = [r for r in waiting if self._late(r, now) and r.id not in fit]  # a job's time begins when it is seen
        if not late:
            return set()
        first = min(late, key=lambda r: (r.tier, r.arrived))
        return {r.id for r in waiting if r.id in fit and _after(r, first)}

    def lasts(self, request: GenerationRequest, *, row: bool) -> bool:
        """Return whether a running request of batch work makes way for nobody. ``row``: its prompt is done."""
        now = self._clock()
        if request.tier is not Tier.BATCH or not self._late(request, now):
            return False
        if not row or now < self._until.setdefault(request.id, now + TENURE):
            return True
        del self._until[request.id]
        self._due[request.id] = now + BATCH
        return False

    def _late(self, request: GenerationRequest, now: float) -> bool:
        if request.tier is Tier.INTERACTIVE:
            return now - self._chats.get(request.id, now) >= CHAT
        if request.id not in self._due:
            self._due = {n: due for n, due in self._due.items() if now - due < _FORGOTTEN}
            self._until = {n: until for n, until in self._until.items() if n in self._due}
            self._due[request.id] = now + BATCH
        return now >= self._due[request.id]


def _after(request: GenerationRequest, late: GenerationRequest) -> bool:
    """Return whether a request waits for one that is late: a chat that was begun before waits for no batch job."""
    if request.tier is late.tier:
        return request.arrived > late.arrived
    return request.tier is Tier.BATCH or not request.resumed
