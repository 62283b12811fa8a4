"""Pulls of one server: each in a thread with an event loop of its own, shared by all who ask for the same model.

The server's loop stays free for tokens. A pull lives as long as someone waits for it; what came stays on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path

from sidecar.models.downloads import Effort, Progress, PullError

_LOOK = 0.2  # seconds between looks at a running pull


class Job:
    """One running pull."""

    def __init__(self, hub_id: str, cache: Path, mirrors: tuple[str, ...], effort: Effort) -> None:
        self.hub_id = hub_id
        self.progress = Progress(model=hub_id)
        self.waiting = 0
        self.done: Future[Path] = Future()
        self._arguments = (cache, mirrors, effort)
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[Path] | None = None
        self._thread = threading.Thread(target=self._run, name=f"pull {hub_id}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            from sidecar.models.downloads.pull import pull  # HTTP and the hub's library come with the first pull

            cache, mirrors, effort = self._arguments
            work = pull(self.hub_id, cache=cache, report=self._report, mirrors=mirrors, effort=effort)
            self._task = self._loop.create_task(work)
            self.done.set_result(self._loop.run_until_complete(self._task))
        except BaseException as exc:
            cancelled = isinstance(exc, asyncio.CancelledError)
            self.done.set_exception(_cancelled(self.hub_id) if cancelled else exc)
        finally:
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _report(self, progress: Progress) -> None:
        self.progress = progress

    def cancel(self) -> None:
        """End it soon; what came is kept."""

        def end() -> None:
            if self._task is not None:
                self._task.cancel()

        with contextlib.suppress(RuntimeError):  # a closed loop: it is over
            self._loop.call_soon_threadsafe(end)

    def join(self, timeout: float) -> None:
        """Wait for the thread. Blocking."""
        self._thread.join(timeout)


def _cancelled(hub_id: str) -> PullError:
    return PullError(f"The pull of {hub_id} was cancelled; what came is kept.", code="cancelled", status=503)


class Downloads:
    """The pulls of one server. On the event loop's thread."""

    def __init__(self, *, cache: Path, mirrors: tuple[str, ...], effort: Effort) -> None:
        self._cache = cache
        self._mirrors = mirrors
        self._effort = effort
        self._jobs: dict[str, Job] = {}

    def progress(self, hub_id: str) -> Progress | None:
        """How far the pull of a model is, or None when there is none."""
        job = self._jobs.get(hub_id)
        return job.progress if job is not None and not job.done.done() else None

    def running(self) -> list[Progress]:
        """All pulls going on."""
        return [job.progress for job in self._jobs.values() if not job.done.done()]

    async def watch(self, hub_id: str) -> AsyncIterator[Progress]:
        """Start or join the pull and follow it; the last one to leave cancels it. Raises PullError."""
        job = self._jobs.get(hub_id)
        if job is None or job.done.done():
            job = self._jobs[hub_id] = Job(hub_id, self._cache, self._mirrors, self._effort)
        job.waiting += 1
        try:
            last: Progress | None = None
            done = asyncio.wrap_future(job.done)
            done.add_done_callback(lambda f: f.cancelled() or f.exception())  # also when nobody asks
            while True:
                if job.progress is not last:
                    last = job.progress
                    yield last
                if done.done():
                    break
                await asyncio.wait({done}, timeout=_LOOK)
            done.result()
        finally:
            job.waiting -= 1
            if not job.waiting:
                job.cancel()
                if self._jobs.get(hub_id) is job:
                    del self._jobs[hub_id]

    def close(self, timeout: float = 3.0) -> None:
        """Cancel every pull. Blocking."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        for job in jobs:
            job.join(timeout)
