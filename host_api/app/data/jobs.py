"""Jobs in the database. Blocking; call from a thread.

Theory of operation. A worker *claims* a job: in one transaction it becomes running, gets an owner and a lease, and its
attempts go up, before anything of it is done. So an attempt that ends with the process counts as one: a document that
kills the service is failed, by name, after the same number of attempts as one that is merely refused. The owner renews
the lease; everything it writes is bound to its still being the owner of a running job, so that a cancelled job stays
cancelled whatever its worker does. A finished piece sets the attempts back to one: many restarts of the machine in a
job of a thousand pages are no reason to give it up.

A worked timeline, three attempts, a PDF whose page 5 crashes the process: attempt 1 does pages 1 to 4 and dies at 5;
the next start takes its lease away and claims it as attempt 2 (page 4 had set it back to 1), dies; attempt 3, dies; the
next start finds three attempts without progress and fails it: "report.pdf: the service ended 3 times while it worked
on it".
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, func, update
from sqlmodel import col

from host_api.app.data.database import Database
from host_api.app.data.files import Files
from host_api.app.data.tables import Job, JobUnit, Session, select
from host_api.app.errors import ApiError, not_found


class JobState(StrEnum):
    """Where a job is. Queued and running ones go on after a restart."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
LEASE = 60.0  # seconds; renewed three times as often


class Jobs:
    """Every job; ``files`` keeps what was uploaded, by content."""

    def __init__(self, database: Database, files: Files, clock: Callable[[], float] = time.time) -> None:
        self._db = database
        self._files = files
        self._clock = clock

    # --- asked by people -----------------------------------------------------------------------------
    def add(self, kind: str, name: str, content: bytes, params: dict[str, Any]) -> tuple[Job, bool]:
        """Return a job for ``content``, and whether it is new: the same content and parameters are one job."""
        digest = self._files.put(content)
        key = live_key(kind, digest, params)
        with self._db.write() as db:
            known = db.exec(select(Job).where(Job.live_key == key)).first()
            if known is not None:
                return known, False
            if not self._files.has(digest):
                self._files.put(content)  # the last task that had it was removed a moment ago
            row = Job(
                id=uuid.uuid4().hex,
                kind=kind,
                content_hash=digest,
                name=name[-1024:],
                params=params,
                live_key=key,
                created_at=self._clock(),
            )
            db.add(row)
            return row, True

    def content(self, job: Job) -> bytes:
        """Return what was uploaded for ``job``. Raises OSError."""
        return self._files.get(job.content_hash)

    def all(self, limit: int = 200) -> list[Job]:
        """Return the newest first."""
        with self._db.read() as db:
            return list(db.exec(select(Job).order_by(col(Job.created_at).desc()).limit(limit)))

    def counts(self) -> dict[str, int]:
        """Return how many there are in each state."""
        with self._db.read() as db:
            return dict(db.exec(select(Job.state, func.count()).group_by(Job.state)).all())

    def get(self, job_id: str) -> Job:
        """Return one. Raises a 404."""
        with self._db.read() as db:
            return _job(db, job_id)

    def again(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again; finished pieces stay finished. Raises a 409 for others."""
        with self._db.write() as db:
            row = _job(db, job_id)
            if row.state not in (JobState.FAILED, JobState.CANCELLED):
                message = f"The task is {row.state}; only a failed or cancelled one is tried again."
                raise ApiError(409, message, code="task_state")
            key = live_key(row.kind, row.content_hash, row.params)
            if db.exec(select(Job).where(Job.live_key == key)).first() is not None:
                raise ApiError(409, "The same was asked for anew meanwhile; see that task.", code="task_duplicate")
            row.live_key = key
            _change(row, self._clock(), state=JobState.QUEUED, attempts=0, error=None, note="", lease_until=0.0)
            return row

    def cancel(self, job_id: str) -> Job:
        """Stop a job for good; one that has ended stays as it is. Raises a 404."""
        with self._db.write() as db:
            row = _job(db, job_id)
            if row.state not in ENDED:
                _change(row, self._clock(), state=JobState.CANCELLED, note="cancelled", owner=None, live_key=None)
            return row

    def rename(self, job_id: str, name: str) -> None:
        """Give a job its file's new name. Raises a 404."""
        with self._db.write() as db:
            _change(_job(db, job_id), self._clock(), name=name[-1024:])

    def forget_models(self, job_id: str) -> None:
        """Forget what models made of a job's pieces, before it is deleted: tried again, it is made anew.

        A removal is killed at any moment: what is left of the job is a job, which is removed by asking again. Raises
        ApiError.
        """
        with self._db.write() as db:
            _ended(db, job_id)
            db.exec(delete(JobUnit).where((col(JobUnit.job_id) == job_id) & (col(JobUnit.model) != "")))

    def sweep(self) -> int:
        """Delete the files that no job has; return how many. For a start."""
        with self._db.read() as db:
            return self._files.sweep(set(db.exec(select(Job.content_hash))))

    def remove(self, job_id: str) -> None:
        """Forget a job that has ended, and its file when no other uses it. Raises ApiError."""
        with self._db.write() as db:
            row = _ended(db, job_id)
            db.delete(row)
            db.flush()
            # Within the transaction: nobody can add a job for the file between the question and the deletion.
            if db.exec(select(Job).where(Job.content_hash == row.content_hash)).first() is None:
                self._files.drop(row.content_hash)

    def superseded(self, job: Job) -> list[Job]:
        """Return jobs of the same kind and content that ended well before ``job`` did, with other models."""
        with self._db.read() as db:
            query = select(Job).where(Job.kind == job.kind, Job.content_hash == job.content_hash)
            return [row for row in db.exec(query) if row.id != job.id and row.state == JobState.DONE]

    # --- done by a worker ----------------------------------------------------------------------------
    def take_over(self) -> int:
        """End every lease: the data directory is this process's alone. Return how many jobs were left running."""
        with self._db.write() as db:
            left = db.exec(update(Job).where(col(Job.state) == JobState.RUNNING).values(lease_until=0.0))
            return int(left.rowcount)

    def claim(self, owner: str, attempts: int) -> Job | None:
        """Begin the oldest job that nobody has, or return None. One that was begun too often is failed instead."""
        now = self._clock()
        with self._db.write() as db:
            free = col(Job.state).in_([JobState.QUEUED, JobState.RUNNING]) & (col(Job.lease_until) <= now)
            for row in db.exec(select(Job).where(free).order_by(col(Job.created_at))).all():
                if row.attempts < attempts:
                    _change(
                        row,
                        now,
                        state=JobState.RUNNING,
                        attempts=row.attempts + 1,
                        owner=owner,
                        lease_until=now + LEASE,
                    )
                    return row
                error = (
                    f"{row.name}: the service ended {row.attempts} times while it worked on it. It isn't tried again."
                )
                _change(row, now, state=JobState.FAILED, error=error, note="", owner=None, live_key=None)
        return None

    def due(self) -> float | None:
        """Return the seconds until a job may be claimed, or None when none waits."""
        with self._db.read() as db:
            waiting = col(Job.state).in_([JobState.QUEUED, JobState.RUNNING])
            first = db.exec(select(func.min(Job.lease_until)).where(waiting)).first()
        return None if first is None else max(0.0, first - self._clock())

    def hold(self, job_id: str, owner: str, **values: Any) -> bool:
        """Renew the lease and change fields; False when the job is not the owner's any more."""
        return self._owned(job_id, owner, lease_until=self._clock() + LEASE, **values)

    def finish(self, job_id: str, owner: str, result: dict[str, Any]) -> bool:
        """End a job well; False when it was cancelled or taken meanwhile, and nothing is changed."""
        return self._owned(job_id, owner, state=JobState.DONE, result=result, note="", error=None, owner_after=None)

    def fail(self, job_id: str, owner: str, error: str) -> bool:
        """End a job badly."""
        return self._owned(job_id, owner, state=JobState.FAILED, error=error, note="", live_key=None, owner_after=None)

    def later(self, job_id: str, owner: str, seconds: float, error: str | None, *, uncounted: bool = False) -> bool:
        """Queue a job again for when ``seconds`` have passed; ``uncounted``: this attempt was not its own fault."""
        with self._db.write() as db:
            row = db.get(Job, job_id)
            if row is None or row.owner != owner or row.state != JobState.RUNNING:
                return False
            attempts = max(0, row.attempts - 1) if uncounted else row.attempts
            note = "trying again" if error else ""
            until = self._clock() + seconds
            changed = {"state": JobState.QUEUED, "error": error, "note": note, "lease_until": until, "owner": None}
            _change(row, self._clock(), attempts=attempts, **changed)
            return True

    def _owned(self, job_id: str, owner: str, **values: Any) -> bool:
        with self._db.write() as db:
            row = db.get(Job, job_id)
            if row is None or row.owner != owner or row.state != JobState.RUNNING:
                return False
            if "owner_after" in values:
                values["owner"] = values.pop("owner_after")
            _change(row, self._clock(), **values)
            return True

    # --- pieces --------------------------------------------------------------------------------------
    def finish_unit(self, job_id: str, key: str, data: dict[str, Any], model: str = "") -> None:
        """Keep a finished piece; done twice by the same model it is kept once. That is progress."""
        json.dumps(data)
        with self._db.write() as db:
            row = db.get(Job, job_id)
            if row is None:
                return
            db.merge(JobUnit(job_id=job_id, key=key, model=model, data=data))
            row.attempts = min(row.attempts, 1)

    def units(self, job_id: str, model: str = "") -> dict[str, dict[str, Any]]:
        """Return the pieces that ``model`` finished."""
        with self._db.read() as db:
            query = select(JobUnit).where(JobUnit.job_id == job_id, JobUnit.model == model)
            return {u.key: u.data for u in db.exec(query)}

    def unit(self, job_id: str, key: str, model: str = "") -> dict[str, Any] | None:
        """Return one piece that ``model`` finished."""
        with self._db.read() as db:
            row = db.get(JobUnit, (job_id, key, model))
            return row.data if row is not None else None


def live_key(kind: str, digest: str, params: dict[str, Any]) -> str:
    """Return what two jobs may not share while both are queued, running or done."""
    return hashlib.sha256(json.dumps([kind, digest, params], sort_keys=True).encode()).hexdigest()


def _job(db: Session, job_id: str) -> Job:
    row = db.get(Job, job_id)
    if row is None:
        raise not_found("task", job_id, "GET /tasks lists them.")
    return row


def _ended(db: Session, job_id: str) -> Job:
    row = _job(db, job_id)
    if row.state not in ENDED:
        raise ApiError(409, f"The task is {row.state}; cancel it first.", code="task_state")
    return row


def _change(row: Job, now: float, **values: Any) -> None:
    for name, value in values.items():
        setattr(row, name, value)
    row.updated_at = now


def document(job: Job) -> dict[str, Any]:
    """Return a job as JSON."""
    names = ("id", "kind", "name", "state", "done", "total", "note", "attempts", "error", "result")
    return {name: getattr(job, name) for name in (*names, "created_at", "updated_at")}
