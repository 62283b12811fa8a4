"""Runs queued jobs one after the other, tells who listens, and goes on after failures of the model's server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from host_api.app.data.engine import Job
from host_api.app.data.jobs import ENDED, Jobs, JobState, document
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
    """One job at a time: the engine decides what runs beside chats, more at once would only wait there."""

    def __init__(self, jobs: Jobs, handlers: Mapping[str, Handler], *, attempts: int) -> None:
        self._jobs = jobs
        self._handlers = handlers
        self._attempts = attempts
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
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
        job = await asyncio.to_thread(self._jobs.get, job_id)
        if job.state not in ENDED:
            job = await self._update(job_id, state=JobState.CANCELLED, note="cancelled")
            if self._current is not None and self._current[0] == job_id:
                self._current[1].cancel()
        return job

    async def follow(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """The job now and after every change, until it has ended or is gone. Raises a 404."""
        job = await asyncio.to_thread(self._jobs.get, job_id)
        while True:
            yield document(job)
            if job.state in ENDED:
                return
            async with self._changed:
                # The time-out is for changes by another process on the same database.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(5.0):
                        await self._changed.wait()
            try:
                job = await asyncio.to_thread(self._jobs.get, job_id)
            except ApiError:
                return

    async def _update(self, job_id: str, **values: Any) -> Job:
        job = await asyncio.to_thread(lambda: self._jobs.update(job_id, **values))
        async with self._changed:
            self._changed.notify_all()
        return job

    async def _run(self) -> None:
        left = await asyncio.to_thread(self._jobs.recover)
        if left:
            log.info("%d tasks go on", left)
        while True:
            self._wake.clear()
            job = await asyncio.to_thread(self._jobs.waiting)
            if job is None:
                await self._wake.wait()
                continue
            try:
                await self._work(job)
            except Exception:
                log.exception("a task could not be looked after")
                await asyncio.sleep(1.0)

    async def _work(self, job: Job) -> None:
        attempt = job.attempts + 1
        await self._update(job.id, state=JobState.RUNNING, attempts=attempt, error=None)
        log.info("task %s (%s) attempt %d", job.id, job.kind, attempt)

        async def report(done: int, total: int, note: str) -> None:
            await self._update(job.id, done=done, total=total, note=note)

        task = asyncio.ensure_future(self._handlers[job.kind](job, Progress(report)))
        self._current = (job.id, task)
        try:
            result = await task
        except asyncio.CancelledError:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                raise
        except Exception as exc:
            await self._failed(job, attempt, exc)
        else:
            await self._update(job.id, state=JobState.DONE, result=result, note="")
        finally:
            self._current = None

    async def _failed(self, job: Job, attempt: int, exc: Exception) -> None:
        if isinstance(exc, ApiError):
            message, passing = exc.message, exc.status_code in _PASSING
        else:
            log.error("task %s failed", job.id, exc_info=exc)
            message, passing = f"{type(exc).__name__}: {exc}", True
        if not passing or attempt >= self._attempts:
            await self._update(job.id, state=JobState.FAILED, error=message)
            return
        log.warning("task %s: %s; trying again", job.id, message)
        await self._update(job.id, error=message, note="trying again")
        await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES)) - 1])
        current = await asyncio.to_thread(self._jobs.get, job.id)
        if current.state == JobState.RUNNING:
            await self._update(job.id, state=JobState.QUEUED)
