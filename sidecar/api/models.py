"""``/v1/models``: what is on this machine, what comes and what goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from sidecar.api import routing
from sidecar.api.replies import CLIENT_CLOSED, service_of
from sidecar.api.schemas import LoadRequest, PullRequest, error_responses
from sidecar.api.service import Service
from sidecar.api.sse import ClientGone, EventStream, until_gone
from sidecar.engine import machine
from sidecar.errors import ApiError
from sidecar.models.downloads import PullError
from sidecar.models.registry import ModelNotFound, describe, offers

router = routing.router(tags=["models"])
log = logging.getLogger("sidecar.api")


@router.get("/v1/models", responses=error_responses(401, 403, 503))
async def models(request: Request) -> dict[str, Any]:
    """Every model a request can name now, its profiles after it; those only partly here are not among them.

    ``problems``: what of profiles.toml can't be used, in words.
    """
    service = service_of(request)
    found = await asyncio.to_thread(service.registry.available)
    data = [document for m in found for document in service.models.listed(m)]
    return {"object": "list", "data": data, "problems": list(service.models.profiles.book().problems)}


@router.get("/v1/models/catalogue", responses=error_responses(401, 403, 503))
async def catalogue(request: Request) -> dict[str, Any]:
    """The models that can be pulled by an alias: what suits this machine, and which are here."""
    found = await asyncio.to_thread(service_of(request).registry.available)
    total = machine.memory().total
    return {"object": "list", "memory_bytes": total, "data": offers(total, frozenset(m.name for m in found))}


@router.post(
    "/v1/models/pull",
    response_model=None,
    responses={
        200: {"description": "The finished pull, or events of its progress"},
        **error_responses(400, 401, 403, 404, 408, 413, 415, 422, 500, 502, 503, 507),
    },
)
async def pull(request: Request, body: PullRequest) -> Response:
    """Fetch a model from the hub. Two pulls of one model share it; it ends when the last client leaves."""
    service = service_of(request)
    try:
        hub_id = service.registry.hub_id(body.model)
    except ModelNotFound as exc:
        raise ApiError(404, str(exc), code="model_not_found", param="model") from exc
    documents = _documents(service, hub_id)
    if body.stream:
        return EventStream(
            documents,
            held=AsyncExitStack(),
            on_error=lambda exc: log.error("the pull of %s failed: %s", hub_id, exc),
        )
    try:
        return JSONResponse(await until_gone(request, _last(documents)))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)


async def _documents(service: Service, hub_id: str) -> AsyncIterator[dict[str, Any]]:
    progress = service.downloads.watch(hub_id)
    try:
        async for one in progress:
            if one.status not in ("failed", "cancelled"):
                yield one.document()
        log.info("%s is here", hub_id)
    except PullError as exc:
        raise ApiError(exc.status, str(exc), code=exc.code, param="model") from exc
    finally:
        await progress.aclose()  # type: ignore[attr-defined]


async def _last(documents: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    try:
        async for document in documents:
            last = document
    finally:
        await documents.aclose()  # type: ignore[attr-defined]
    return last


@router.post(
    "/v1/models/{model_id:path}/load", responses=error_responses(400, 401, 403, 404, 408, 413, 415, 422, 500, 503)
)
async def load(request: Request, model_id: str, body: LoadRequest | None = None) -> dict[str, Any]:
    """Bring a model into memory; answers when it is there. /health shows how far it is meanwhile."""
    service = service_of(request)
    async with service.models.use(model_id, kind=None, keep_alive=body.keep_alive if body else None):
        pass
    found = await asyncio.to_thread(service.models.find, model_id)
    return describe(found) | service.models.state(found)


@router.post("/v1/models/{model_id:path}/unload", responses=error_responses(400, 401, 403, 404, 408, 413, 503))
async def unload(request: Request, model_id: str) -> dict[str, Any]:
    """Give a model's memory back, after what runs on it; no model is loaded at the next start then."""
    service = service_of(request)
    found = await service.models.unload(model_id)
    return describe(found) | service.models.state(found)


@router.get("/v1/models/{model_id:path}", responses=error_responses(401, 403, 404, 503))
async def model(request: Request, model_id: str) -> dict[str, Any]:
    """One model."""
    service = service_of(request)
    found = await asyncio.to_thread(service.models.find, model_id)
    base = replace(found, name=found.name.removesuffix(f":{found.profile}")) if found.profile else found
    return next(one for one in service.models.listed(base) if one["id"] == found.name)


@router.delete("/v1/models/{model_id:path}", responses=error_responses(401, 403, 404, 409, 500, 503))
async def remove(request: Request, model_id: str) -> dict[str, Any]:
    """Delete a model from this machine, also one that is only partly here. Refused while it is used or pulled."""
    service = service_of(request)
    try:
        freed = await service.models.remove(model_id)
    except ModelNotFound as exc:
        raise ApiError(404, str(exc), code="model_not_found") from exc
    except OSError as exc:
        raise ApiError(500, f"{model_id} can't be deleted: {exc}.", code="delete_failed") from exc
    return {"id": model_id, "object": "model", "deleted": True, "freed_bytes": freed}
