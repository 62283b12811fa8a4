"""Loops that look now and then look together, so that an idle process wakes once a second and not once a loop."""

from __future__ import annotations

import asyncio


async def tick(interval: float) -> None:
    """Sleep until the next multiple of ``interval`` on the event loop's clock: at most ``interval`` seconds."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    await asyncio.sleep(interval - now % interval)
