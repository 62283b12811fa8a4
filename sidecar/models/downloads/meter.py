"""How fast it goes and how long it takes. Pure, with the clock given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sidecar.models.downloads import Progress, Report

_WINDOW = 8.0  # seconds the rate is taken over
_EVERY = 0.1  # seconds between reports of bytes alone


class PullMeter:
    """Keeps a pull's progress and reports its changes."""

    def __init__(self, model: str, report: Report, clock: Callable[[], float]) -> None:
        self.progress = Progress(model=model)
        self._report = report
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self._last = float("-inf")

    def say(self, status: str, **changes: Any) -> None:
        """A change of status; always reported. ``message`` goes unless it is given."""
        self.progress = replace(self.progress, status=status, **{"message": None, **changes})
        self._last = self._clock()
        self._report(self.progress)

    def at(self, completed: int, file_completed: int) -> None:
        """Bytes there now, in all and of the file."""
        now = self._clock()
        self._seen.append((now, completed))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()
        (then, before), total = self._seen[0], self.progress.total
        rate = max(0.0, (completed - before) / (now - then)) if now > then else self.progress.rate
        self.progress = replace(
            self.progress,
            status="downloading",
            message=None,
            completed=completed,
            file_completed=file_completed,
            rate=rate,
            seconds_left=(total - completed) / rate if rate > 0 else None,
        )
        if now - self._last >= _EVERY or completed >= total:
            self._last = now
            self._report(self.progress)

    def paused(self) -> None:
        """Nothing flows: what was measured before says nothing about what comes."""
        self._seen.clear()
