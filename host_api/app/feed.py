"""Everything a page shows, as one stream of events: what changed, when it changed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

log = logging.getLogger("host.feed")

EVERY = 1.0  # seconds between looks while somebody listens
KEEPALIVE = 15.0

Topic = Callable[[], Awaitable[Any]]


class Feed:
    """Topics are asked for their document while somebody listens; who listens hears of those that differ."""

    def __init__(self, topics: Mapping[str, Topic]) -> None:
        self._topics = topics
        self._last: dict[str, str] = {}
        self._version: dict[str, int] = {}
        self._listeners = 0
        self._changed = asyncio.Condition()
        self._hint = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def hint(self) -> None:
        """Something may have changed: look now."""
        self._hint.set()

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def events(self) -> AsyncIterator[str]:
        """Yield server-sent events: every topic once, then each when it changed."""
        seen: dict[str, int] = {}
        self._listeners += 1
        if self._task is None or self._task.done():
            # Nobody listened for a while: what was told last may not be so any more.
            self._last.clear()
            self._version.clear()
            self._task = asyncio.create_task(self._look())
        self.hint()
        try:
            while True:
                fresh = [name for name, version in self._version.items() if seen.get(name) != version]
                for name in fresh:
                    seen[name] = self._version[name]
                    yield f"event: {name}\ndata: {self._last[name]}\n\n"
                if fresh:
                    continue
                async with self._changed:
                    try:
                        async with asyncio.timeout(KEEPALIVE):
                            while all(seen.get(n) == v for n, v in self._version.items()):
                                await self._changed.wait()
                    except TimeoutError:
                        yield ": still here\n\n"
        finally:
            self._listeners -= 1

    async def _look(self) -> None:
        while self._listeners:
            self._hint.clear()
            for name, topic in self._topics.items():
                try:
                    text = json.dumps(await topic(), ensure_ascii=False)
                except Exception as exc:
                    log.warning("%s can't be told now: %s", name, exc)
                    continue
                if text != self._last.get(name):
                    self._last[name] = text
                    async with self._changed:
                        self._version[name] = self._version.get(name, 0) + 1
                        self._changed.notify_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._hint.wait()
            await asyncio.sleep(0.05)
