"""Loops that look now and then look together, so that an idle process wakes once a second and not once a loop."""

from __future__ import annotations

import asyncio


def until_tick(interval: float) -> float:
    """Return the seconds until the next multiple of ``interval`` on the running event loop's clock."""
    return interval - asyncio.get_running_loop().time() % interval


async def tick(interval: float) -> None:
    """Sleep until the next multiple of ``interval`` on the event loop's clock: at most ``interval`` seconds."""
    await asyncio.sleep(until_tick(interval))
