"""``/v1/power``: quiet mode, in which work that nobody waits for rests on battery and when the machine is hot."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import Request

from sidecar.api import routing
from sidecar.api.conversation import Body
from sidecar.api.schemas import error_responses
from sidecar.models import power
from sidecar.models.power import Power, Quiet

router = routing.router(tags=["health"])
log = logging.getLogger("sidecar.server")


class PowerRequest(Body):
    """Whether quiet mode is on, until the server ends."""

    quiet: bool


class Quieting:
    """Quiet mode of one server. ``hold`` tells the engine whether batch work waits; ``read`` looks at the machine."""

    def __init__(self, hold: Callable[[bool], None], *, wanted: bool, read: Callable[[], Power] = power.read) -> None:
        self._hold = hold
        self._read = read
        self._quiet = Quiet(wanted=wanted)
        self._power = Power()
        self._held = False
        self._looked = -power.EVERY

    async def want(self, wanted: bool) -> None:
        """Turn it on or off; what that means holds when this returns."""
        self._quiet.want(wanted)
        self._looked = -power.EVERY
        await self.look(time.monotonic())

    async def look(self, now: float) -> None:
        """Look at the machine when it is time, and tell the engine where something changes."""
        if self._quiet.wanted and now - self._looked >= power.EVERY:
            self._looked = now
            self._power = await asyncio.to_thread(self._read)
        held = self._quiet.decide(self._power, now)
        if held != self._held:
            self._held = held
            log.info("batch work waits: %s" if held else "batch work goes on%s", self._quiet.why or "")
            self._hold(held)

    def document(self) -> dict[str, Any]:
        """Return quiet mode as clients see it."""
        found = asdict(self._power) if self._quiet.wanted else {}
        return {"quiet": self._quiet.wanted, "batch_waits": self._held, "why": self._quiet.why, **found}


@router.get("/v1/power", responses=error_responses(401, 403, 503))
async def state(request: Request) -> dict[str, Any]:
    """Whether quiet mode is on, whether batch work waits and why, and what the machine tells of its power."""
    document: dict[str, Any] = request.app.state.service.quieting.document()
    return document


@router.post("/v1/power", responses=error_responses(400, 401, 403, 408, 413, 415, 422, 503))
async def change(request: Request, body: PowerRequest) -> dict[str, Any]:
    """Turn quiet mode on or off; chats are never touched by it."""
    quieting: Quieting = request.app.state.service.quieting
    await quieting.want(body.quiet)
    return quieting.document()
