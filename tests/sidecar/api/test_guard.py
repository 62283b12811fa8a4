"""The guard's time limits let a cancellation through, whenever it comes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from starlette.types import Message, Receive, Scope, Send

from sidecar.api.guard import Guard


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_cancelled_answer_ends_also_between_two_events(steps: int) -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def sink(_: Message) -> None:
        await asyncio.sleep(0)

    async def silent() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def main() -> bool:
        guard = Guard(endless, token=None, draining=lambda: False, max_body=100, client_timeout=30)
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": [(b"host", b"127.0.0.1")]}
        task = asyncio.create_task(guard(scope, silent, sink))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(50):
            await asyncio.sleep(0)
        ended = task.done()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return ended

    assert asyncio.run(main())
