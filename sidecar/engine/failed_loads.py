"""Models whose loading ended two engines: they are not loaded again at once, since each try costs everybody a pause.

No request is at fault then, nor is anything known of the model but that this machine can't load it now: memory may be
short, or a disk asleep. Who asks is told so and when it is tried again; the first who asks after that time tries it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.engine.messages import LOAD_DIED, Refused
from sidecar.errors import ApiError

FIRST, LONGEST = 30.0, 600.0
"""Seconds until a model is tried again: the first time, and at most; doubled each time in between."""


@dataclass(frozen=True)
class _Failure:
    times: int
    until: float
    message: str


class FailedLoads:
    """Remembers them by folder, until they are loaded. ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, _Failure] = {}

    def note(self, path: str, message: str) -> None:
        """Remember that the loading of a model ended engines."""
        before = self._failed.get(path)
        times = before.times if before is not None else 0
        wait = min(LONGEST, FIRST * 2.0 ** min(times, 10))
        self._failed[path] = _Failure(times + 1, self._clock() + wait, message)

    def loaded(self, path: str) -> None:
        """Forget what happened before: it is in memory."""
        self._failed.pop(path, None)

    def check(self, path: str) -> None:
        """Raise an ApiError with the seconds to wait for a model that is not tried again yet."""
        failure = self._failed.get(path)
        if failure is None or (left := failure.until - self._clock()) <= 0:
            return
        seconds = math.ceil(left)
        text = f"{failure.message} It is tried again in {seconds} s."
        raise ApiError(503, text, code=LOAD_DIED, param="model", retry_after=seconds)


def refusal(number: int, reason: str) -> Refused:
    """Return what a load is answered that two engines died of, and what waits for it."""
    text = (
        f"The engine died twice while it loaded this model ({reason}); no request is at fault. Free some memory or "
        "take a smaller model; where the disk is slow, raise --stall-timeout."
    )
    return Refused(id=number, status=503, message=text, code=LOAD_DIED, param="model")


def error_of(reply: Refused) -> ApiError:
    """Return the error that a refusal is for a client."""
    wait = math.ceil(FIRST) if reply.code == LOAD_DIED else None
    return ApiError(reply.status, reply.message, code=reply.code, param=reply.param, retry_after=wait)
