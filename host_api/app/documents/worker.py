"""Runs queued jobs one after the other, tells who listens, and goes on after failures of the model's server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from host_api.app.data.jobs import ENDED, LEASE, Jobs, document
from host_api.app.data.tables import Job
from host_api.app.errors import ApiError

log = logging.getLogger("host.tasks")

_PASSING = frozenset({429, 502, 503, 504})
_PAUSES = (0.5, 2.0, 5.0)


@dataclass(frozen=True)
class Progress:
    """What a handler reports to: pieces done, pieces in all, a word for people."""

    report: Callable[[int, int, str], Awaitable[None]]


Handler = Callable[[Job, Progress], Awaitable[dict[str, Any]]]


class Worker:
    """One job at a time: the engine decides what runs beside chats, more at once would only wait there.

    ``trouble`` says why the queue stands still, when it does: no error ends it.
    """

    def __init__(self, jobs: Jobs, handlers: Mapping[str, Handler], *, attempts: int) -> None:
        self.trouble: str | None = None
        self.changed: Callable[[], None] = lambda: None
        self._jobs = jobs
        self._handlers = handlers
        self._attempts = attempts
        self._owner = uuid.uuid4().hex
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._version = 0
        self._task: asyncio.Task[None] | None = None
        self._current: tuple[str, asyncio.Task[dict[str, Any]]] | None = None

    def start(self) -> None:
        """Begin, with what an earlier run left."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; what runs is gone on with after the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def cancel(self, job_id: str) -> Job:
        """Stop a job now; one that has ended stays as it is. Raises a 404."""
        job = await asyncio.to_thread(self._jobs.cancel, job_id)
        if self._current is not None and self._current[0] == job_id:
            self._current[1].cancel()
        await self._tell()
        return job

    async def follow(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the job now and after every change, until it has ended or is gone. Raises a 404."""
        while True:
            seen = self._version
            try:
                job = await asyncio.to_thread(self._jobs.get, job_id)
            except ApiError:
                return
            yield document(job)
            if job.state in ENDED:
                return
            async with self._changed:
                await self._changed.wait_for(lambda seen=seen: self._version != seen)  # type: ignore[misc]

    async def _tell(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()
        self.changed()

    async def _run(self) -> None:
        pause = 0.0
        taken = False
        while True:
            self._wake.clear()
            try:
                if not taken:
                    left = await asyncio.to_thread(self._jobs.take_over)
                    taken = True
                    if left:
                        log.info("%d tasks go on", left)
                job = await asyncio.to_thread(self._jobs.claim, self._owner, self._attempts)
                await self._tell()
                if job is not None:
                    await self._work(job)
                due = 0.0 if job is not None else await asyncio.to_thread(self._jobs.due)
                self.trouble, pause = None, 0.0
            except Exception as exc:
                pause = min(2 * pause + 0.5, 10.0)
                self.trouble = f"The tasks stand still: {exc} (looked at again every {pause:g} s)"
                log.exception("the tasks can't be looked after")
                await asyncio.sleep(pause)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due):
                    await self._wake.wait()

    async def _work(self, job: Job) -> None:
        log.info("task %s (%s) attempt %d", job.id, job.kind, job.attempts)

        async def report(done: int, total: int, note: str) -> None:
            if not await asyncio.to_thread(self._hold, job.id, done=done, total=total, note=note, error=None):
                raise asyncio.CancelledError
            await self._tell()

        task = asyncio.ensure_future(self._handlers[job.kind](job, Progress(report)))
        self._current = (job.id, task)
        keeper = asyncio.create_task(self._keep(job.id, task))
        try:
            result = await task
        except asyncio.CancelledError:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                later = asyncio.to_thread(self._jobs.later, job.id, self._owner, 0.0, None, uncounted=True)
                await asyncio.shield(asyncio.ensure_future(later))
                raise
        except Exception as exc:
            await self._failed(job, exc)
        else:
            await self._surely(self._jobs.finish, job.id, self._owner, result)
        finally:
            self._current = None
            keeper.cancel()
        await self._tell()

    def _hold(self, job_id: str, **values: Any) -> bool:
        return self._jobs.hold(job_id, self._owner, **values)

    async def _keep(self, job_id: str, task: asyncio.Task[dict[str, Any]]) -> None:
        """Renew the lease; a job that was cancelled before its task was known here ends now."""
        while True:
            with contextlib.suppress(Exception):
                if not await asyncio.to_thread(self._hold, job_id):
                    task.cancel()
            await asyncio.sleep(LEASE / 3)

    async def _surely(self, write: Callable[..., bool], *args: Any) -> None:
        """Write how a job ended, again and again while the database can't be written."""
        pause = 0.5
        while True:
            try:
                await asyncio.to_thread(write, *args)
                return
            except (OSError, SQLAlchemyError) as exc:
                self.trouble = f"How a task ended can't be written down: {exc}"
                log.error("%s", self.trouble)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 10.0)

    async def _failed(self, job: Job, exc: Exception) -> None:
        if isinstance(exc, ApiError):
            message, passing = exc.message, exc.status_code in _PASSING
        else:
            log.error("task %s failed", job.id, exc_info=exc)
            message, passing = f"{type(exc).__name__}: {exc}", True
        now = await asyncio.to_thread(self._jobs.get, job.id)  # a finished piece sets the attempts back
        if not passing or now.attempts >= self._attempts:
            await self._surely(self._jobs.fail, job.id, self._owner, message)
            return
        log.warning("task %s: %s; trying again", job.id, message)
        pause = _PAUSES[min(now.attempts, len(_PAUSES)) - 1]
        await self._surely(self._jobs.later, job.id, self._owner, pause, message)
