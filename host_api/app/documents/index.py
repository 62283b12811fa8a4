"""The pipeline: pages, pictures described, chunks embedded and stored; and search over them.

A page is the unit, in two steps. What is read of it (its text in parents and children, its pictures' descriptions) is
kept once, for every model. That its chunks have vectors is noted for the embedding model that made them. A task that
goes on with another embedding model therefore reads and describes nothing again, and embeds all: a document is never
half in one table and half in another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from host_api.app.data.capabilities import Capability
from host_api.app.data.jobs import Jobs, JobState
from host_api.app.data.tables import Job
from host_api.app.documents import chunks, ranking, reading
from host_api.app.documents.content import Page
from host_api.app.documents.describing import describe
from host_api.app.documents.languages import language_of
from host_api.app.documents.vectors import Child, Hit, Vectors
from host_api.app.documents.worker import Progress
from host_api.app.errors import ApiError
from host_api.app.models.gateway import Gateway, Target

_BATCH = 32
_LOOKED_AT = 60  # chunks of either kind that a search ranks, at least


class Indexer:
    """Makes documents findable, and finds them."""

    def __init__(self, jobs: Jobs, vectors: Vectors, gateway: Gateway) -> None:
        self._jobs = jobs
        self._vectors = vectors
        self._gateway = gateway

    async def index(self, job: Job, progress: Progress) -> dict[str, Any]:
        """Do what is left of a document. Raises ApiError."""
        content = await asyncio.to_thread(self._jobs.content, job)
        units = await asyncio.to_thread(self._jobs.units, job.id)
        known = {key: data for key, data in units.items() if key.isdecimal() and _is_complete(data)}
        identity = (await self._gateway.target(Capability.EMBEDDING)).identity
        embedded = await asyncio.to_thread(self._jobs.units, job.id, identity)
        document = await asyncio.to_thread(reading.Document, job.name, content, frozenset(map(int, known)))
        total, done = document.total, len(known)
        await progress.report(done, total, "reading")
        try:
            for key, data in known.items():
                if key not in embedded:
                    await progress.report(done, total, f"page {key} is embedded")
                    await self._embedded(job, key, data, identity)
            source = document.pages()
            while (page := await asyncio.to_thread(next, source, None)) is not None:
                data = await self._described(page, progress, done, total)
                await asyncio.to_thread(self._jobs.finish_unit, job.id, str(page.number), data)
                await self._embedded(job, str(page.number), data, identity)
                done += 1
                await progress.report(done, total, f"page {page.number} is done")
        finally:
            # Not waited for: a read that goes on in its thread ends with its page, and then its process does.
            asyncio.get_running_loop().run_in_executor(None, document.close)
        for old in await asyncio.to_thread(self._jobs.superseded, job):
            await asyncio.to_thread(self._vectors.remove, old.id)
            await asyncio.to_thread(self._jobs.remove, old.id)
        await asyncio.to_thread(self._vectors.compact)
        units = await asyncio.to_thread(self._jobs.units, job.id)
        pages = {key: data for key, data in units.items() if key.isdecimal()}
        text = "\n".join(p["text"] for u in pages.values() for p in u["parents"][:3])
        return {
            "pages": len(pages),
            "language": language_of(text),
            "pictures": sum(len(u["descriptions"]) for u in pages.values()),
            "described": sum(bool(d) for u in pages.values() for d in u["descriptions"]),
            "parents": sum(len(u["parents"]) for u in pages.values()),
            "children": sum(len(p["children"]) for u in pages.values() for p in u["parents"]),
            "notes": document.notes[:50],
        }

    async def _described(self, page: Page, progress: Progress, done: int, total: int) -> dict[str, Any]:
        """Return what is kept of a page: its stretches of text with its pictures' descriptions in them."""
        descriptions = []
        for number, picture in enumerate(page.pictures, 1):
            await progress.report(done, total, f"page {page.number}, picture {number} of {len(page.pictures)}")
            descriptions.append(await describe(self._gateway, picture))
        parents = [
            {
                "text": p.text,
                "headings": list(p.headings),
                "pictures": list(p.pictures),
                "children": [{"text": c.text, "rows": c.rows, "picture": c.picture} for c in p.children],
            }
            for p in chunks.build(page, descriptions)
        ]
        return {"descriptions": descriptions, "label": page.label, "parents": parents}

    async def _embedded(self, job: Job, unit: str, data: dict[str, Any], identity: str) -> None:
        """Embed a unit's chunks and store them; note it for the model. Raises a 503 when another was assigned."""
        target = await self._gateway.target(Capability.EMBEDDING)  # each time: the sidecar may have come back anew
        if target.identity != identity:
            message = "The embedding model was changed meanwhile; the document is indexed with the new one."
            raise ApiError(503, message, code="model_changed")
        found = [
            (i, j, str(child["text"]), " › ".join(parent["headings"]))
            for i, parent in enumerate(data["parents"])
            for j, child in enumerate(parent["children"])
        ]
        given = [f"{headings}\n{text}" if headings else text for _, _, text, headings in found]
        vectors = await self._embed(target, given)
        title = job.name.rpartition(".")[0] or job.name
        children = [
            Child(job.id, unit, i, j, text, f"{title}\n{headings}", vector)
            for (i, j, text, headings), vector in zip(found, vectors, strict=True)
        ]

        def wanted() -> bool:
            with contextlib.suppress(ApiError):
                return self._jobs.get(job.id).state == JobState.RUNNING
            return False

        await asyncio.to_thread(self._vectors.replace, _table_key(target), job.id, unit, children, wanted)
        await asyncio.to_thread(self._jobs.finish_unit, job.id, unit, {"children": len(children)}, identity)

    async def _embed(self, target: Target, texts: Sequence[str], *, batch: bool = True) -> list[list[float]]:
        found: list[list[float]] = []
        for i in range(0, len(texts), _BATCH):
            part = list(texts[i : i + _BATCH])
            document = await self._gateway.post(target, "/embeddings", {"input": part}, batch=batch)
            try:
                rows = sorted(document["data"], key=lambda r: r["index"])
                vectors = [[float(x) for x in r["embedding"]] for r in rows]
            except (KeyError, TypeError, ValueError) as exc:
                raise ApiError(502, "The embeddings are not OpenAI's.", code="provider_invalid") from exc
            if len(vectors) != len(part):
                raise ApiError(502, "The server gave another number of embeddings.", code="provider_invalid")
            found.extend(vectors)
        return found

    async def search(self, query: str, limit: int) -> list[dict[str, Any]]:
        """Return the parents that fit best by meaning and by words, each with file, page and place. Raises ApiError."""
        reading.needs("lancedb")
        most = max(_LOOKED_AT, limit * 5)
        worded, meant = await asyncio.gather(
            asyncio.to_thread(self._vectors.with_words, query, most), self._near(query, most), return_exceptions=True
        )
        if isinstance(worded, BaseException):
            raise worded
        if isinstance(meant, BaseException):
            # Words still find something while the model that embeds is away.
            if not isinstance(meant, ApiError) or meant.code == "capability_unassigned" or not worded:
                raise meant
            meant = ([], 1.0)
        near, trusted = meant
        found: list[dict[str, Any]] = []
        for (job_id, unit, parent), score, hit in ranking.fused(query, near, worded, trusted):
            if len(found) == limit:
                break
            if (answer := await asyncio.to_thread(self._answer, job_id, unit, parent, hit)) is not None:
                found.append({**answer, "score": score})
        return found

    async def _near(self, query: str, most: int) -> tuple[list[Hit], float]:
        """Return what is near in meaning, and how much its order counts."""
        target = await self._gateway.target(Capability.EMBEDDING)
        vector = (await self._embed(target, [query], batch=False))[0]
        near = await asyncio.to_thread(self._vectors.near, _table_key(target), vector, most)
        return near, ranking.trust(target.model, query)

    def _answer(self, job_id: str, unit: str, parent: int, hit: Hit) -> dict[str, Any] | None:
        """Return what a search tells of a stretch of text; None for one that was removed meanwhile."""
        data = self._jobs.unit(job_id, unit)
        with contextlib.suppress(ApiError, IndexError, KeyError):
            job = self._jobs.get(job_id)
            names = (self._jobs.unit(job_id, NAMES) or {}).get("names", [])
            found = data["parents"][parent] if data is not None else None
            if data is None or found is None:
                return None
            children = found.get("children", [])
            child = children[hit.child] if hit.child < len(children) else {}
            return {
                "document": job.name,
                "also": [name for name in names if name != job.name],
                "task_id": job.id,
                "page": int(unit),
                "label": data.get("label", ""),
                "headings": found.get("headings", []),
                "rows": child.get("rows"),
                "picture": child.get("picture") or None,
                "pictures": found["pictures"],
                "text": found["text"],
                "matched": hit.text,
            }
        return None

    def add_name(self, job: Job, name: str) -> None:
        """Note another name of a document that is indexed already. Blocking."""
        names = (self._jobs.unit(job.id, NAMES) or {}).get("names", [job.name])
        if name not in names:
            self._jobs.finish_unit(job.id, NAMES, {"names": [*names, name]})


NAMES = "names"  # the unit that holds a document's names, where it has several


def _table_key(target: Target) -> str:
    """Return what tells a model's vectors from others': two providers may have different models of one name."""
    return target.model if target.builtin else target.identity


def _is_complete(data: dict[str, Any]) -> bool:
    """Tell whether a unit has what a search needs; those of the first releases lack it, and are read again."""
    return all("children" in parent for parent in data.get("parents", [{}]))
