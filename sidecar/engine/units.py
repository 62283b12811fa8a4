"""A log of every unit of work, for whoever asks where the time went: one JSON line each (``--unit-log``).

    {"at": 12.034, "ms": 81.2, "unit": "decode", "tier": "interactive", "rows": 1, "shared": 3, "tokens": 12, …}

``at``: seconds of the monotonic clock at its start; ``rows``: interactive or, where there are none, batch rows of the
pass; ``shared``: batch rows beside them; ``tokens``: of prompts; ``waiting``: requests in the queue.
``benchmarks.timeline`` draws it.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, TextIO

from sidecar.engine.actions import Action, Decode, Prefill, View, tier_of

log = logging.getLogger("sidecar.engine")

FLUSH = 0.5
"""Seconds after which lines are written out at the latest, when units go on."""


class UnitLog:
    """Writes nothing without a file. A file that can't be written is told of once."""

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = None
        self._flushed = 0.0
        if path is not None:
            try:
                self._file = path.open("a", encoding="utf-8")
            except OSError as exc:
                log.warning("no log of units: %s", exc)

    def note(self, action: Action, view: View, started: float, seconds: float) -> None:
        """Note a unit that has ended."""
        log.debug("%s took %.1f ms", action, seconds * 1000)
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(_line(action, view, started, seconds)) + "\n")
            if time.monotonic() - self._flushed > FLUSH:
                self.flush()
        except OSError as exc:
            log.warning("the log of units ends here: %s", exc)
            self._file = None

    def flush(self) -> None:
        """Write out what was noted."""
        if self._file is not None:
            self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write out what is left."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(action: Action, view: View, started: float, seconds: float) -> dict[str, Any]:
    tier = tier_of(action, view)
    line: dict[str, Any] = {"at": round(started, 4), "ms": round(seconds * 1000, 2), "unit": _name(action)}
    line["tier"] = tier.label
    if isinstance(action, Decode):
        line["rows"], line["shared"] = view.rows.get(tier, 0), action.shared_rows
        line["tokens"] = sum(tokens for _, tokens in action.pieces)
    elif isinstance(action, Prefill):
        prompt = next(p for p in view.prefilling if p.id == action.id)
        line["tokens"] = min(action.tokens, prompt.remaining) * prompt.rows
    line["waiting"] = len(view.waiting)
    return line


def _name(action: Action) -> str:
    if isinstance(action, Decode) and action.pieces:
        return "mixed"
    return type(action).__name__.lower()
