"""The pipeline: pages, pictures described, chunks embedded and stored; and search over them."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from host_api.app.data.capabilities import Capability
from host_api.app.data.jobs import Jobs
from host_api.app.data.tables import Job
from host_api.app.documents import chunks, readers
from host_api.app.documents.readers import Page
from host_api.app.documents.vectors import Child, Vectors
from host_api.app.documents.worker import Progress
from host_api.app.errors import ApiError
from host_api.app.models.gateway import Gateway, Target

_PROMPT = "Describe this picture in one or two sentences: what it shows, any words in it, colours and numbers."
_TOKENS = 96
_BATCH = 32


class Indexer:
    """A page is the unit: finished once, it is never done again."""

    def __init__(self, jobs: Jobs, vectors: Vectors, gateway: Gateway) -> None:
        self._jobs = jobs
        self._vectors = vectors
        self._gateway = gateway

    async def index(self, job: Job, progress: Progress) -> dict[str, Any]:
        """Do what is left of a document. Raises ApiError."""
        embedder = await self._gateway.target(Capability.EMBEDDING)
        content = await asyncio.to_thread(self._jobs.content, job)
        total = await asyncio.to_thread(readers.count, job.name, content)
        finished = await asyncio.to_thread(self._jobs.units, job.id, embedder.identity)
        done = len(finished)
        await progress.report(done, total, "reading")
        source = readers.pages(job.name, content, frozenset(int(k) for k in finished))
        while (page := await asyncio.to_thread(next, source, None)) is not None:
            # Asked for anew each page: a sidecar that was restarted has another address and key.
            now = await self._gateway.target(Capability.EMBEDDING)
            if now.identity != embedder.identity:
                message = "The embedding model was changed meanwhile; the document is indexed with the new one."
                raise ApiError(503, message, code="model_changed")
            await self._page(job, page, now, progress, done, total)
            done += 1
            await progress.report(done, total, f"page {page.number} is done")
        for old in await asyncio.to_thread(self._jobs.superseded, job):
            await asyncio.to_thread(self._vectors.remove, old.id)
            await asyncio.to_thread(self._jobs.remove, old.id)
        units = await asyncio.to_thread(self._jobs.units, job.id, embedder.identity)
        return {
            "pages": len(units),
            "pictures": sum(len(u["descriptions"]) for u in units.values()),
            "described": sum(bool(d) for u in units.values() for d in u["descriptions"]),
            "parents": sum(len(u["parents"]) for u in units.values()),
            "children": sum(u["children"] for u in units.values()),
        }

    async def _page(self, job: Job, page: Page, embedder: Target, progress: Progress, done: int, total: int) -> None:
        descriptions = []
        for number, picture in enumerate(page.pictures, 1):
            await progress.report(done, total, f"page {page.number}, picture {number} of {len(page.pictures)}")
            descriptions.append(await self._describe(picture))
        parents = chunks.build(page.text, descriptions)
        texts = [(i, child) for i, parent in enumerate(parents) for child in parent.children]
        vectors = await self._embed(embedder, [text for _, text in texts])
        unit = str(page.number)
        children = [Child(job.id, unit, i, text, v) for (i, text), v in zip(texts, vectors, strict=True)]
        await asyncio.to_thread(self._vectors.replace, embedder.model, job.id, unit, children)
        data = {
            "descriptions": descriptions,
            "parents": [{"text": p.text, "pictures": list(p.pictures)} for p in parents],
            "children": len(children),
        }
        await asyncio.to_thread(self._jobs.finish_unit, job.id, unit, data, embedder.identity)

    async def _describe(self, picture: bytes) -> str:
        """What a picture shows; empty where no vision model is assigned."""
        try:
            target = await self._gateway.target(Capability.VISION)
        except ApiError as exc:
            if exc.code == "capability_unassigned":
                return ""
            raise
        url = "data:image/png;base64," + base64.b64encode(picture).decode()
        parts = [{"type": "text", "text": _PROMPT}, {"type": "image_url", "image_url": {"url": url}}]
        body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": _TOKENS}
        document = await self._gateway.post(target, "/chat/completions", body, batch=True)
        try:
            return " ".join((document["choices"][0]["message"]["content"] or "").split())
        except (KeyError, IndexError, TypeError) as exc:
            raise ApiError(502, "The description has no message.", code="provider_invalid") from exc

    async def _embed(self, target: Target, texts: list[str], *, batch: bool = True) -> list[list[float]]:
        found: list[list[float]] = []
        for i in range(0, len(texts), _BATCH):
            part = texts[i : i + _BATCH]
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
        """The parents whose children are nearest, with the page and pictures they came from. Raises ApiError."""
        readers.needs("lancedb")
        target = await self._gateway.target(Capability.EMBEDDING)
        vector = (await self._embed(target, [query], batch=False))[0]
        hits = await asyncio.to_thread(self._vectors.search, target.model, vector, limit * 5)
        found: dict[tuple[str, str, int], dict[str, Any]] = {}
        for hit in hits:
            key = (hit.job, hit.unit, hit.parent)
            if key in found or len(found) == limit:
                continue
            unit = await asyncio.to_thread(self._jobs.unit, hit.job, hit.unit, target.identity)
            if unit is None:
                continue
            job = await asyncio.to_thread(self._jobs.get, hit.job)
            parent = unit["parents"][hit.parent]
            found[key] = {
                "document": job.name,
                "task_id": job.id,
                "page": int(hit.unit),
                "pictures": parent["pictures"],
                "text": parent["text"],
                "matched": hit.text,
                "score": round(1 - hit.distance, 4),
            }
        return list(found.values())
