"""When a crashed sidecar may be started again: pure, and shared by all hosts through ``restarts.json``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any

from host_api.protocol.decision import PERMANENT

HISTORY = 5  # failures kept with their reasons


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """0, base, 2 base, 4 base … up to ``cap`` seconds; forgotten once a sidecar lived ``stable`` seconds."""

    base: float = 1.0
    cap: float = 30.0
    stable: float = 60.0

    def delay(self, failures: int, jitter: float) -> float:
        """Seconds before the start that follows ``failures`` failures; ``jitter`` in [0, 1) takes off up to 25%."""
        if failures <= 1:
            return 0.0
        full = self.cap if failures > 32 else min(self.cap, self.base * 2.0 ** (failures - 2))
        return full * (1.0 - 0.25 * jitter)


@dataclass(frozen=True)
class Failure:
    """One crash, replacement or failed start: when (wall clock) and why, in a word or two."""

    at: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """The shared state. Times are wall-clock seconds since 1970; ``attempt`` counts starts."""

    failures: int = 0
    last_start: float = 0.0
    last_failure: float = 0.0
    attempt: int = 0
    exit_code: int | None = None
    message: str = ""
    history: tuple[Failure, ...] = ()

    def started(self, now: float, policy: Backoff) -> Restarts:
        """Count a start made at ``now``. Failures are forgotten once a stable time has passed without one."""
        quiet = self.last_failure > 0 and now - self.last_failure >= policy.stable
        failures = 0 if quiet else self.failures
        return replace(self, failures=failures, last_start=now, attempt=self.attempt + 1, exit_code=None, message="")

    def crashed(self, now: float, policy: Backoff, why: str = "crashed") -> Restarts:
        """Count a crash or a replacement noticed at ``now``; one that came after a stable life begins anew."""
        lived = now - self.last_start
        fresh = self.last_start > 0 and lived >= policy.stable
        return replace(self, failures=1 if fresh else self.failures + 1, last_failure=now)._because(now, why)

    def failed(self, now: float, exit_code: int | None, message: str) -> Restarts:
        """Count a start that failed at ``now``."""
        why = "no answer" if exit_code is None else f"exit status {exit_code}"
        count = self.failures + 1
        after = replace(self, failures=count, last_failure=now, exit_code=exit_code, message=message[-4000:])
        return after._because(now, why)

    def _because(self, now: float, why: str) -> Restarts:
        return replace(self, history=(*self.history, Failure(now, why))[-HISTORY:])

    def wait(self, now: float, policy: Backoff, jitter: float) -> float:
        """Seconds to wait at ``now``: never more than the delay itself, whatever the clock did."""
        delay = policy.delay(self.failures, jitter)
        return min(delay, max(0.0, self.last_failure + delay - now))

    @property
    def permanent(self) -> bool:
        """Whether the last start failed in a way that trying again won't mend."""
        return self.exit_code in PERMANENT


def encode(state: Restarts) -> bytes:
    """The bytes of ``restarts.json``."""
    history = [[one.at, one.why] for one in state.history]
    return json.dumps({"schema": 1, **state.__dict__, "history": history}).encode() + b"\n"


def parse(data: bytes | None) -> Restarts:
    """The state in ``data``; anything unreadable is a clean slate."""
    try:
        document: Any = json.loads(data or b"{}")
        if not isinstance(document, dict) or document.get("schema") != 1:
            return Restarts()
        code = document["exit_code"]
        return Restarts(
            failures=_count(document["failures"]),
            last_start=_seconds(document["last_start"]),
            last_failure=_seconds(document["last_failure"]),
            attempt=_count(document["attempt"]),
            exit_code=None if code is None else _int(code),
            message=_text(document["message"]),
            history=_history(document.get("history")),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Restarts()


# Strict, as the Rust twin is: a number in a string or a fraction where a count belongs means a damaged file.
def _int(value: Any) -> int:
    if type(value) is not int or not -(2**31) <= value < 2**31:
        raise ValueError("not an integer")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError("not a count")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError("not a number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    return value


def _history(value: Any) -> tuple[Failure, ...]:
    """The last failures; what isn't in the form is left out (1.0 doesn't write the key)."""
    rows = value if isinstance(value, list) else []
    good = [r for r in rows if isinstance(r, list) and len(r) == 2 and isinstance(r[1], str)]
    return tuple(Failure(float(at), why) for at, why in good if type(at) in (int, float))[-HISTORY:]


def jitter() -> float:
    """A random number in [0, 1), without the cost of importing ``random``."""
    return int.from_bytes(os.urandom(4), "big") / 2**32
