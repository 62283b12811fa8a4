"""Answers that are being written: each is a task of the service, not of the window that asked.

A window that closes, reloads or shows another chat stops nothing. Whoever comes (back) gets the answer from its first
chunk and then as it grows; any number may follow it. It ends when the model ends, when somebody says stop, when the
chat is deleted, or with the service, which then keeps what came.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from host_api.app.chat.parts import Parts
from host_api.app.data.chats import DONE, INTERRUPTED, Begun, Sessions

log = logging.getLogger("host.chat")

SAVE_EVERY = 0.25  # seconds between writes of an answer that grows
TRIES = 5

Chunks = Callable[[], AsyncGenerator[dict[str, Any], None]]
"""Makes the chunks of an answer, as the AI SDK's clients get them; an ``error`` chunk tells a failure."""


class Run:
    """One answer. Lives on the event loop."""

    def __init__(self, begun: Begun, source: Chunks, sessions: Sessions, ended: Callable[[Run], None]) -> None:
        self.session_id = begun.session_id
        self.turn_id = begun.turn_id
        self.state = DONE
        self._source = source
        self._sessions = sessions
        self._ended = ended
        self._chunks: list[dict[str, Any]] = []
        self._saved = 0
        self._parts = Parts()
        self._finished = False
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._run())

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """Yield every chunk from the first, and those to come, until the answer has ended and is written down."""
        at = 0
        while True:
            while at < len(self._chunks):
                yield self._chunks[at]
                at += 1
            if self._finished:
                return
            async with self._changed:
                while at == len(self._chunks) and not self._finished:
                    await self._changed.wait()

    async def add_after(self, call: str | None, chunk: dict[str, Any]) -> None:
        """Put a chunk into the answer, after the one that shows the tool call ``call``."""
        for _ in range(100):
            if any(part.get("toolCallId") == call for part in self._parts.parts):
                break
            await asyncio.sleep(0.02)
        await self._add(chunk)

    async def stop(self, state: str = "stopped") -> None:
        """End it with what came; return when that is written down."""
        if not self._finished:
            self.state = state
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        saver = asyncio.create_task(self._save())
        try:
            error = await self._produce()
        finally:
            saver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saver
        await self._end(error)
        self._ended(self)
        self._finished = True
        async with self._changed:
            self._changed.notify_all()

    async def _produce(self) -> str:
        """Take the chunks; return what went wrong, in words, if anything did."""
        error = ""
        source = self._source()
        try:
            async with contextlib.aclosing(source):
                async for chunk in source:
                    if chunk["type"] == "error":
                        error, self.state = str(chunk.get("errorText", "")), "failed"
                    await self._add(chunk)
        except asyncio.CancelledError:
            if self.state == DONE:  # the service ends
                self.state = INTERRUPTED
            await self._add({"type": "abort"})
        except Exception as exc:
            log.exception("an answer failed")
            error, self.state = f"The answer failed: {exc or type(exc).__name__}", "failed"
            await self._add({"type": "error", "errorText": error})
        return error

    async def _add(self, chunk: dict[str, Any]) -> None:
        self._parts.take(chunk)
        self._chunks.append(chunk)
        async with self._changed:
            self._changed.notify_all()

    async def _save(self) -> None:
        """Append what is new a few times a second; the answer doesn't wait for the disk."""
        while True:
            await asyncio.sleep(SAVE_EVERY)
            at, upto = self._saved, len(self._chunks)
            if at == upto:
                continue
            write = asyncio.to_thread(self._sessions.grow, self.session_id, self.turn_id, at, self._chunks[at:upto])
            try:
                await asyncio.shield(asyncio.ensure_future(write))
                self._saved = upto
            except Exception as exc:
                log.warning("a growing answer can't be written down yet: %s", exc)

    async def _end(self, error: str) -> None:
        parts = self._parts.ended(error)
        for attempt in range(TRIES):
            try:
                await asyncio.to_thread(self._sessions.end, self.session_id, self.turn_id, parts, self.state)
                return
            except Exception as exc:
                log.warning("an answer can't be written down yet: %s", exc)
                await asyncio.sleep(2.0**attempt / 2)
        log.error("an answer was not written down whole; what was saved of it shows after the next start")


class Runs:
    """Every answer that is being written, by conversation and turn."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._runs: dict[tuple[str, str], Run] = {}
        self.changed: Callable[[], None] = lambda: None

    async def recover(self) -> int:
        """Put together what an earlier process left running. Return how many."""
        left = await asyncio.to_thread(self._sessions.interrupted)
        for session_id, turn_id, chunks in left:
            parts = Parts(chunks).ended("The service ended while this was being written.")
            await asyncio.to_thread(self._sessions.end, session_id, turn_id, parts, INTERRUPTED)
        return len(left)

    def start(self, begun: Begun, source: Chunks) -> Run:
        """Begin an answer that was written down."""
        run = Run(begun, source, self._sessions, self._ended)
        self._runs[(begun.session_id, begun.turn_id)] = run
        self.changed()
        return run

    def _ended(self, run: Run) -> None:
        self._runs.pop((run.session_id, run.turn_id), None)
        self.changed()

    def of(self, session_id: str) -> list[Run]:
        """Return the answers of a conversation that are being written, the youngest last."""
        return [run for (session, _), run in self._runs.items() if session == session_id]

    def sessions(self) -> set[str]:
        """Return the conversations in which something is being written."""
        return {session for session, _ in self._runs}

    async def stop(self, session_id: str) -> int:
        """Stop the answers of a conversation. Return how many there were."""
        found = self.of(session_id)
        await asyncio.gather(*(run.stop() for run in found))
        return len(found)

    async def close(self) -> None:
        """End all of them; what came is kept."""
        await asyncio.gather(*(run.stop(INTERRUPTED) for run in list(self._runs.values())))


def sse(chunk: dict[str, Any]) -> str:
    """Return a chunk as a server-sent event."""
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
