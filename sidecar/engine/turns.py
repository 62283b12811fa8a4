"""Which of several loaded models works next. Pure; each model's own policy then decides what it does.

Models with work of the most urgent tier take turns by the time they had: the one that had least goes. A model that has
only batch work beside another's chat gets the guaranteed share of the time, saved up as credit, and no more.

With a chat on A (steps of 20 ms), a batch job on B (steps of 30 ms) and a share of 0.1: A steps 15 times, 300 ms, in
which B saves up 30 ms; B steps once; A goes on. The chat on A waits 30 ms in 330.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sidecar.engine.messages import Tier

CREDIT_CAP = 2.0
"""Seconds batch work of other models can save up."""


K = TypeVar("K")


@dataclass
class Turns(Generic[K]):
    """``share``: of the time, for batch work of models beside an interactive one."""

    share: float = 0.1
    _had: dict[K, float] = field(default_factory=dict)
    _credit: float = 0.0
    _owed: bool = False

    def choose(self, busy: Mapping[K, Tier]) -> K:
        """Return which of the ``busy`` models goes next, each given with its most urgent tier."""
        known = [self._had[key] for key in busy if key in self._had]
        start = min(known, default=0.0)
        # A model that comes to work begins where the others are: what it did not use earlier is not owed to it.
        self._had = {key: self._had.get(key, start) for key in busy}
        top = min(busy.values())
        urgent = [key for key, tier in busy.items() if tier is top]
        others = [key for key, tier in busy.items() if tier is not top]
        self._owed = bool(others)
        among = others if others and self._credit > 0 else urgent
        return min(among, key=lambda key: self._had[key])

    def spent(self, key: K, tier: Tier, seconds: float) -> None:
        """Account for a turn that took ``seconds``."""
        self._had[key] = self._had.get(key, 0.0) + seconds
        if not self._owed:
            self._credit = 0.0
        elif tier is Tier.INTERACTIVE:
            self._credit = min(CREDIT_CAP, self._credit + seconds * self.share)
        else:
            self._credit -= seconds
