"""Nobody waits for memory without end. Pure; the clock is given.

What does not fit waits while others that fit pass it by, and on a machine that is always full of short chats a long one
never fits: a job of 1,400 tokens saw eight clients' chats go by for five minutes. So a chat that has waited
``CHAT`` seconds, or a batch job that has waited ``BATCH``, holds back those that came after it (and, for a batch job,
chats that were not begun) until what runs has ended and there is room. Such a job's row then stays for ``TENURE``
seconds after its prompt is done, whoever comes: set aside again at once, it would have waited for nothing.

    0 s     a job of 1,434 tokens comes; chats run, and it doesn't fit beside them
    60 s    it is late: chats that come now wait
    66 s    the last chat has ended that was too much beside it; it begins, and chats begin beside it as far as they fit
    74 s    its prompt is done: for 30 s it gives its tokens with the chats'; then a chat may have its room again
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from sidecar.engine.messages import Tier
from sidecar.engine.rows import GenerationRequest

CHAT = 10.0
BATCH = 60.0
"""Seconds after which a request that waits for memory holds back others."""

TENURE = 30.0
"""Seconds for which the row of a batch job that was late gives way to nobody."""


class Patience:
    """Who waits for memory since when, and which rows last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[int, float] = {}
        self._lasting: dict[int, float | None] = {}  # until when; None: its prompt is not done

    def held_back(self, waiting: Iterable[GenerationRequest], fit: set[int]) -> set[int]:
        """Return which of those who ``fit`` wait all the same, for one that is late."""
        now, waiting = self._clock(), list(waiting)
        self._since = {r.id: self._since.get(r.id, now) for r in waiting if r.id in self._since or r.id not in fit}
        late = [r for r in waiting if r.id not in fit and now - self._since[r.id] >= _most(r)]
        if not late:
            return set()
        first = min(late, key=lambda r: (r.tier, self._since[r.id]))
        return {r.id for r in waiting if r.id in fit and _after(r, first)}

    def begins(self, request: GenerationRequest) -> None:
        """Note that a request begins."""
        since = self._since.pop(request.id, None)
        if request.tier is Tier.BATCH and since is not None and self._clock() - since >= BATCH:
            self._lasting[request.id] = None
        self._lasting = {n: until for n, until in self._lasting.items() if until is None or until > self._clock()}

    def lasts(self, request: GenerationRequest, *, row: bool) -> bool:
        """Return whether a running request gives way to nobody. ``row``: its prompt is done."""
        if request.id not in self._lasting:
            return False
        until = self._lasting[request.id]
        if until is None and row:
            until = self._lasting[request.id] = self._clock() + TENURE
        return until is None or self._clock() < until


def _most(request: GenerationRequest) -> float:
    return CHAT if request.tier is Tier.INTERACTIVE else BATCH


def _after(request: GenerationRequest, late: GenerationRequest) -> bool:
    """Return whether a request waits for one that is late: a chat that was begun before waits for no batch job."""
    if request.tier is late.tier:
        return request.arrived > late.arrived
    return request.tier is Tier.BATCH or not request.resumed
