"""Jobs in the database. Blocking; call from a thread."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from host_api.app.data.engine import Job, JobUnit, Session, select
from host_api.app.errors import ApiError, not_found


class JobState(StrEnum):
    """Where a job is. Queued and running ones go on after a restart."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
_LIVE = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.DONE})


class Jobs:
    """Every job; ``files`` keeps what was uploaded, by content hash."""

    def __init__(self, engine: Engine, files: Path) -> None:
        self._engine = engine
        self._files = files

    def _session(self) -> Session:
        return Session(self._engine, expire_on_commit=False)

    def add(self, kind: str, name: str, content: bytes, params: dict[str, Any]) -> tuple[Job, bool]:
        """A job for ``content``, and whether it is new: the same content with the same parameters is one job."""
        digest = hashlib.sha256(content).hexdigest()
        with self._session() as db:
            for row in db.exec(select(Job).where(Job.kind == kind, Job.content_hash == digest)):
                if row.params == params and row.state in _LIVE:
                    return row, False
            self._keep(digest, content)
            row = Job(id=uuid.uuid4().hex, kind=kind, content_hash=digest, name=name[:200], params=params)
            db.add(row)
            db.commit()
            return row, True

    def _keep(self, digest: str, content: bytes) -> None:
        self._files.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self._files / digest
        if not target.exists():
            fresh = target.with_name(f"{digest}.{uuid.uuid4().hex}.new")
            fresh.write_bytes(content)
            fresh.chmod(0o600)
            fresh.replace(target)

    def content(self, job: Job) -> bytes:
        """What was uploaded for ``job``. Raises OSError."""
        return (self._files / job.content_hash).read_bytes()

    def all(self, limit: int = 200) -> list[Job]:
        """The newest first."""
        with self._session() as db:
            query = select(Job).order_by(Job.created_at.desc()).limit(limit)  # type: ignore[attr-defined]
            return list(db.exec(query))

    def get(self, job_id: str) -> Job:
        """One. Raises a 404."""
        with self._session() as db:
            row = db.get(Job, job_id)
            if row is None:
                raise not_found("task", job_id, "GET /tasks lists them.")
            return row

    def update(self, job_id: str, **values: Any) -> Job:
        """Change fields of a job. Raises a 404."""
        with self._session() as db:
            row = db.get(Job, job_id)
            if row is None:
                raise not_found("task", job_id, "GET /tasks lists them.")
            for name, value in values.items():
                setattr(row, name, value)
            row.updated_at = time.time()
            db.add(row)
            db.commit()
            return row

    def again(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again; finished pieces stay finished. Raises a 409 for others."""
        row = self.get(job_id)
        if row.state not in (JobState.FAILED, JobState.CANCELLED):
            raise ApiError(
                409, f"The task is {row.state}; only a failed or cancelled one is tried again.", code="task_state"
            )
        return self.update(job_id, state=JobState.QUEUED, attempts=0, error=None, note="")

    def superseded(self, job: Job) -> list[Job]:
        """Jobs of the same kind and content that ended well before ``job`` did, with other models."""
        with self._session() as db:
            query = select(Job).where(Job.kind == job.kind, Job.content_hash == job.content_hash)
            return [row for row in db.exec(query) if row.id != job.id and row.state == JobState.DONE]

    def waiting(self) -> Job | None:
        """The oldest queued job."""
        with self._session() as db:
            query = select(Job).where(Job.state == JobState.QUEUED).order_by(Job.created_at)  # type: ignore[arg-type]
            return db.exec(query).first()

    def recover(self) -> int:
        """After a start: what was running is queued again. Returns how many."""
        with self._session() as db:
            rows = list(db.exec(select(Job).where(Job.state == JobState.RUNNING)))
            for row in rows:
                row.state = JobState.QUEUED
                db.add(row)
            db.commit()
            return len(rows)

    def remove(self, job_id: str) -> None:
        """Forget a job that has ended, and its file when no other uses it. Raises ApiError."""
        row = self.get(job_id)
        if row.state not in ENDED:
            raise ApiError(409, f"The task is {row.state}; cancel it first.", code="task_state")
        with self._session() as db:
            db.delete(db.get_one(Job, job_id))
            db.commit()
            if db.exec(select(Job).where(Job.content_hash == row.content_hash)).first() is None:
                (self._files / row.content_hash).unlink(missing_ok=True)

    # --- pieces --------------------------------------------------------------------------------------
    def finish_unit(self, job_id: str, key: str, data: dict[str, Any]) -> None:
        """A piece is done; done twice it is kept once."""
        json.dumps(data)
        with self._session() as db:
            db.merge(JobUnit(job_id=job_id, key=key, data=data))
            db.commit()

    def units(self, job_id: str) -> dict[str, dict[str, Any]]:
        """The finished pieces."""
        with self._session() as db:
            return {u.key: u.data for u in db.exec(select(JobUnit).where(JobUnit.job_id == job_id))}

    def unit(self, job_id: str, key: str) -> dict[str, Any] | None:
        """One finished piece."""
        with self._session() as db:
            row = db.get(JobUnit, (job_id, key))
            return row.data if row is not None else None


def document(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    return {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "state": job.state,
        "done": job.done,
        "total": job.total,
        "note": job.note,
        "attempts": job.attempts,
        "error": job.error,
        "result": job.result,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
    }
