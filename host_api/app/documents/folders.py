"""Folders whose documents are kept findable: watched, renames and deletions followed, unchanged files not read again.

What a folder holds is noted with size and time of change, so that a start reads only what changed meanwhile. A file
that appears with known content is another name of it; a rename is such an appearance and a disappearance in one go,
which is why new files are looked at before missing ones are forgotten. A folder that is gone as a whole (a disk that
was taken out, a share that is away) forgets nothing: it waits for its return.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from host_api.app.data.jobs import ENDED, Jobs
from host_api.app.documents import readers
from host_api.app.documents.folder_notes import Folder, FolderNotes, KnownFile
from host_api.app.documents.intake import Intake
from host_api.app.documents.vectors import Vectors
from host_api.app.documents.worker import Worker
from host_api.app.errors import ApiError, not_found

log = logging.getLogger("host.tasks")

_LARGEST = 128 * 1024 * 1024  # bytes of a file
_MOST = 100_000  # files of a folder
_AGAIN = 30.0  # seconds until a folder that couldn't be looked at is looked at again
_WAIT = 1600  # milliseconds that changes are gathered for: programs save a file in several steps


class Folders:
    """The watched folders, each in a task of its own."""

    def __init__(self, notes: FolderNotes, intake: Intake, jobs: Jobs, vectors: Vectors, worker: Worker) -> None:
        self._notes = notes
        self._intake = intake
        self._jobs = jobs
        self._vectors = vectors
        self._worker = worker
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._states: dict[str, str] = {}
        self._turn = asyncio.Lock()  # one folder is looked through at a time

    async def start(self) -> None:
        """Begin to watch what was watched before."""
        for folder in await asyncio.to_thread(self._notes.folders):
            self._watch(folder)

    async def close(self) -> None:
        """Stop watching; what is noted stays."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def add(self, path: str) -> Folder:
        """Watch a folder and index what is in it. Raises a 422 that says what is wrong with the path."""
        given = Path(path).expanduser()
        if not given.is_absolute():
            raise ApiError(422, f"{path}: give the folder's whole path.", code="folder_invalid")
        if not await asyncio.to_thread(given.is_dir):
            raise ApiError(422, f"{path} is no folder on this machine.", code="folder_invalid")
        resolved = await asyncio.to_thread(given.resolve)
        for other in await asyncio.to_thread(self._notes.folders):
            if resolved == Path(other.path):
                return other
            if resolved.is_relative_to(other.path) or Path(other.path).is_relative_to(resolved):
                raise ApiError(
                    409, f"{path} and {other.path}, which is watched, are one inside the other.", code="folder_overlaps"
                )
        folder = await asyncio.to_thread(self._notes.add, str(resolved))
        self._watch(folder)
        return folder

    async def remove(self, folder_id: str) -> None:
        """Stop watching a folder and forget its documents, but those that another folder has too. Raises a 404."""
        folder = await self._folder(folder_id)
        task = self._tasks.pop(folder.id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for file in (await asyncio.to_thread(self._notes.files, folder.id)).values():
            await self._forget(folder, file)
        await asyncio.to_thread(self._notes.remove, folder.id)

    async def all(self) -> list[dict[str, Any]]:
        """Return every folder: its path, state, number of files, and those that can't be read, with the reason."""
        found = []
        for folder in await asyncio.to_thread(self._notes.folders):
            files, refused = await asyncio.to_thread(self._notes.summary, folder.id, 100)
            found.append(
                {
                    "id": folder.id,
                    "path": folder.path,
                    "state": self._states.get(folder.id, "starting"),
                    "files": files,
                    "refused": refused,
                }
            )
        return found

    async def _folder(self, folder_id: str) -> Folder:
        for folder in await asyncio.to_thread(self._notes.folders):
            if folder.id == folder_id:
                return folder
        raise not_found("folder", folder_id, "GET /folders lists them.")

    def _watch(self, folder: Folder) -> None:
        self._tasks[folder.id] = asyncio.create_task(self._follow(folder))

    async def _follow(self, folder: Folder) -> None:
        """Look through a folder, then after every change; again and again where that fails."""
        import watchfiles

        while True:
            try:
                if not await asyncio.to_thread(Path(folder.path).is_dir):
                    self._states[folder.id] = "missing"
                    await asyncio.sleep(_AGAIN)
                    continue
                watcher = watchfiles.awatch(
                    folder.path, debounce=_WAIT, step=200, yield_on_timeout=True, rust_timeout=30_000
                )
                changes = aiter(watcher)
                first = asyncio.ensure_future(anext(changes))  # the watch stands before the first look
                await asyncio.sleep(0.05)
                await self.look(folder)
                if await first:
                    await self.look(folder)
                async for changed in changes:
                    if not await asyncio.to_thread(Path(folder.path).is_dir):
                        break
                    if changed or self._states.get(folder.id) != "watched":
                        await self.look(folder)
            except asyncio.CancelledError:
                raise
            except Exception as exc:
                self._states[folder.id] = f"failing: {exc}"
                log.warning("the folder %s can't be watched: %s", folder.path, exc)
            await asyncio.sleep(_AGAIN if "failing" in self._states.get(folder.id, "") else 1.0)

    async def look(self, folder: Folder) -> None:
        """Bring what is noted of a folder in line with what it holds."""
        async with self._turn:
            self._states[folder.id] = "reading"
            known = await asyncio.to_thread(self._notes.files, folder.id)
            found = await asyncio.to_thread(_found, folder.path)
            if found is None:
                self._states[folder.id] = "missing"
                return
            waiting = False
            for name, (size, changed) in found.items():
                before = known.get(name)
                if before is None or (before.size, before.changed) != (size, changed):
                    waiting |= not await self._take(folder, name, size, changed, before)
            for name, file in known.items():
                if name not in found:
                    await self._forget(folder, file)
            self._states[folder.id] = "waiting for an embedding model" if waiting else "watched"

    async def _take(self, folder: Folder, name: str, size: int, changed: int, before: KnownFile | None) -> bool:
        """Take in a file that is new or changed; tell whether that could be done now."""
        path = Path(folder.path) / name
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except OSError as exc:
            log.info("%s can't be read: %s", path, exc)
            return True  # its next change will be seen
        digest = hashlib.sha256(content).hexdigest()
        job_id, error = (before.job, before.error) if before is not None and before.digest == digest else (None, None)
        if job_id is None and error is None and content:
            try:
                job, _ = await self._intake.index(path.name, content)
            except ApiError as exc:
                if exc.status_code not in (413, 415, 422):
                    return False
                error = exc.message
            else:
                job_id = job.id
        now = KnownFile(name, size, changed, digest, job_id, error)
        await asyncio.to_thread(self._notes.note, folder.id, now)
        if before is not None and before.job not in (None, job_id):
            await self._drop(str(before.job))
        return True

    async def _forget(self, folder: Folder, file: KnownFile) -> None:
        await asyncio.to_thread(self._notes.forget, folder.id, file.name)
        if file.job is not None:
            await self._drop(file.job)

    async def _drop(self, job_id: str) -> None:
        """Remove a document that no file stands for any more; where one does, let it bear that file's name."""
        names = await asyncio.to_thread(self._notes.names, job_id)
        with contextlib.suppress(ApiError):
            job = await asyncio.to_thread(self._jobs.get, job_id)
            if names:
                if job.name not in names:
                    await asyncio.to_thread(self._jobs.rename, job_id, names[0])
                return
            if job.state not in ENDED:
                await self._worker.cancel(job_id)
            await asyncio.to_thread(self._jobs.remove, job_id)
            await asyncio.to_thread(self._vectors.remove, job_id)


def _found(folder: str) -> dict[str, tuple[int, int]] | None:
    """Return what a folder holds that can be read: names within it with size and time; None for one that is away."""
    found: dict[str, tuple[int, int]] = {}
    root = Path(folder)
    if not root.is_dir():
        return None
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in ("node_modules", "__pycache__"))
        for name in _wanted(names):
            path = Path(place) / name
            with contextlib.suppress(OSError):
                stat = path.stat(follow_symlinks=False)
                if path.is_file() and not path.is_symlink() and 0 < stat.st_size <= _LARGEST:
                    found[str(path.relative_to(root))] = (stat.st_size, stat.st_mtime_ns)
        if len(found) > _MOST:
            log.warning("%s has more than %d files: the rest is left out", folder, _MOST)
            break
    return found


def _wanted(names: Iterable[str]) -> list[str]:
    """Return the names of files that are documents; hidden ones and Office's lock files are not."""
    return sorted(n for n in names if not n.startswith((".", "~$")) and readers.is_named_as_document(n))
