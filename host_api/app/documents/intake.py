"""Takes files in: looks whether they can be read, queues the work, knows a file it has by another name."""

from __future__ import annotations

import asyncio
from typing import Any

from host_api.app.data.capabilities import Capability
from host_api.app.data.jobs import Jobs
from host_api.app.data.providers import Assigned, Store
from host_api.app.data.tables import Job
from host_api.app.documents import reading
from host_api.app.documents.index import Indexer
from host_api.app.documents.worker import Worker
from host_api.app.models.gateway import Gateway


class Intake:
    """Where uploads and watched folders meet the queue."""

    def __init__(self, jobs: Jobs, worker: Worker, gateway: Gateway, store: Store, indexer: Indexer) -> None:
        self._jobs = jobs
        self._worker = worker
        self._gateway = gateway
        self._store = store
        self._indexer = indexer

    async def index(self, name: str, content: bytes) -> tuple[Job, bool]:
        """Queue a document for search; return its job, and whether it is new. Raises ApiError."""
        reading.needs("lancedb")
        await asyncio.to_thread(reading.check, name, content)
        needed = await self._gateway.assigned(Capability.EMBEDDING)
        eyes = await asyncio.to_thread(self._store.assigned, Capability.VISION)
        job, new = await self._queued("index", name, content, _models(needed, eyes))
        if not new and job.name != name:
            await asyncio.to_thread(self._indexer.add_name, job, name)
        return job, new

    async def tag(self, name: str, content: bytes, vocabulary: list[str]) -> tuple[Job, bool]:
        """Queue a text or file for tags; words of ``vocabulary`` are preferred. Raises ApiError."""
        found, _ = await self._gateway.structured_or_text()
        params = _models(found)
        if vocabulary:
            params["vocabulary"] = "\n".join(vocabulary)
        return await self._queued("tag", name, content, params)

    async def _queued(self, kind: str, name: str, content: bytes, params: dict[str, Any]) -> tuple[Job, bool]:
        """Queue work, or find the same work; other models make it other work."""
        found = await asyncio.to_thread(self._jobs.add, kind, name, content, params)
        self._worker.wake()
        return found


def _models(*used: Assigned | None) -> dict[str, Any]:
    return {str(a.capability): f"{a.provider_id}/{a.model}" for a in used if a is not None}
