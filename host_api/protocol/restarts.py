"""When a crashed sidecar may be started again: pure, and shared by all hosts through ``restarts.json``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any

from host_api.protocol.decision import PERMANENT


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


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """The shared state. Times are wall-clock seconds since 1970; ``attempt`` counts starts."""

    failures: int = 0
    last_start: float = 0.0
    last_failure: float = 0.0
    attempt: int = 0
    exit_code: int | None = None
    message: str = ""

    def started(self, now: float) -> Restarts:
        """After a start was made at ``now``."""
        return replace(self, last_start=now, attempt=self.attempt + 1, exit_code=None, message="")

    def crashed(self, now: float, policy: Backoff) -> Restarts:
        """After a crash was noticed at ``now``; one that came after a stable time begins anew."""
        lived = now - self.last_start
        fresh = self.last_start > 0 and lived >= policy.stable
        return replace(self, failures=1 if fresh else self.failures + 1, last_failure=now)

    def failed(self, now: float, exit_code: int | None, message: str) -> Restarts:
        """After a start failed at ``now``."""
        return replace(self, failures=self.failures + 1, last_failure=now, exit_code=exit_code, message=message[-4000:])

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
    return json.dumps({"schema": 1, **state.__dict__}).encode() + b"\n"


def parse(data: bytes | None) -> Restarts:
    """The state in ``data``; anything unreadable is a clean slate."""
    try:
        document: Any = json.loads(data or b"{}")
        if not isinstance(document, dict) or document.get("schema") != 1:
            return Restarts()
        code = document["exit_code"]
        return Restarts(
            failures=max(0, int(document["failures"])),
            last_start=float(document["last_start"]),
            last_failure=float(document["last_failure"]),
            attempt=max(0, int(document["attempt"])),
            exit_code=None if code is None else int(code),
            message=str(document["message"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Restarts()


def jitter() -> float:
    """A random number in [0, 1), without the cost of importing ``random``."""
    return int.from_bytes(os.urandom(4), "big") / 2**32
