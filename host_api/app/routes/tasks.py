"""Tasks: tag, index, follow, cancel; and search."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field, ValidationError

from host_api.app.data.jobs import document
from host_api.app.data.tables import Job
from host_api.app.documents import reading
from host_api.app.errors import ApiError
from host_api.app.routes.uploads import upload
from host_api.app.services import Host

router = APIRouter(tags=["tasks"])


class TagText(BaseModel):
    """A text to tag."""

    text: str = Field(min_length=1, max_length=1_000_000)
    name: str = "text"
    vocabulary: list[str] = Field(default=[], max_length=500)


class Query(BaseModel):
    """What to look for."""

    query: str = Field(min_length=1, max_length=4000)
    limit: int = Field(default=5, ge=1, le=50)


@router.post("/tasks/tag", status_code=202)
async def tag(request: Request, host: Host) -> JSONResponse:
    """Tag a text (JSON ``text``) or a file (multipart ``file``); words of ``vocabulary`` are preferred as tags."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        name, content, vocabulary = await upload(request)
        await asyncio.to_thread(reading.check, name, content)
    else:
        try:
            body = TagText.model_validate_json(await request.body())
        except ValidationError as exc:
            first = exc.errors()[0]
            message = f"Send JSON with text, or a file as multipart form data. {first['loc']}: {first['msg']}."
            raise ApiError(422, message, code="invalid_request") from None
        name, content, vocabulary = body.name, body.text.encode(), body.vocabulary
        if not name.endswith(".txt"):
            name += ".txt"
    return _answered(*await host.intake.tag(name, content, vocabulary))


@router.post("/tasks/index", status_code=202)
async def index(request: Request, host: Host) -> JSONResponse:
    """Make a document (multipart ``file``) findable."""
    name, content, _ = await upload(request)
    return _answered(*await host.intake.index(name, content))


def _answered(job: Job, new: bool) -> JSONResponse:
    return JSONResponse({**document(job), "duplicate": not new}, 202 if new else 200)


@router.get("/tasks")
def tasks(host: Host) -> list[dict[str, Any]]:
    """Every task, the newest first."""
    return [document(j) for j in host.jobs.all()]


@router.get("/tasks/{task_id}")
def task(task_id: str, host: Host) -> dict[str, Any]:
    """One task."""
    return document(host.jobs.get(task_id))


@router.get("/tasks/{task_id}/events", response_class=StreamingResponse)
async def events(task_id: str, host: Host) -> StreamingResponse:
    """The task now and after every change, as server-sent events, until it has ended."""
    await asyncio.to_thread(host.jobs.get, task_id)

    async def stream() -> AsyncIterator[str]:
        async for state in host.worker.follow(task_id):
            yield f"event: progress\ndata: {json.dumps(state)}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.post("/tasks/{task_id}/cancel")
async def cancel(task_id: str, host: Host) -> dict[str, Any]:
    """Stop a task; what is finished of it is kept for a retry."""
    return document(await host.worker.cancel(task_id))


@router.post("/tasks/{task_id}/retry", status_code=202)
async def retry(task_id: str, host: Host) -> dict[str, Any]:
    """Queue a failed or cancelled task again; it goes on where it stopped."""
    job = await asyncio.to_thread(host.jobs.again, task_id)
    host.worker.wake()
    return document(job)


@router.delete("/tasks/{task_id}", status_code=204)
async def remove(task_id: str, host: Host) -> Response:
    """Forget a task that has ended, and what search would find of it."""
    await asyncio.to_thread(host.jobs.forget_models, task_id)
    await asyncio.to_thread(host.vectors.remove, task_id)
    await asyncio.to_thread(host.jobs.remove, task_id)
    return Response(status_code=204)


@router.post("/search")
async def search(body: Query, host: Host) -> list[dict[str, Any]]:
    """Stretches of indexed documents that fit best by meaning and by words, with file, page and place."""
    return await host.indexer.search(body.query, body.limit)
