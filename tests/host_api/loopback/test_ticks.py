"""Loops with ticks wake together."""

from __future__ import annotations

import asyncio
import itertools

from host_api.loopback.ticks import tick


def test_loops_that_began_apart_look_at_one_time() -> None:
    rounds: list[list[int]] = [[], []]

    async def look(number: int, interval: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.013 * number)
        for _ in range(4):
            await tick(interval)
            rounds[number].append(round(loop.time() / 0.05))

    async def both() -> None:
        await asyncio.gather(look(0, 0.05), look(1, 0.05))

    asyncio.run(both())
    assert set(rounds[0]) & set(rounds[1]), rounds
    assert all(later > earlier for one in rounds for earlier, later in itertools.pairwise(one)), rounds
