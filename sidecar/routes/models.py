"""``GET /v1/models``: what is on this machine."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from sidecar.registry import describe
from sidecar.routes.common import service_of
from sidecar.schemas import error_responses

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=error_responses(401, 403, 503))
async def models(request: Request) -> dict[str, Any]:
    """Every model a request can name now."""
    service = service_of(request)
    found = await asyncio.to_thread(service.registry.available)
    loaded = service.residency.names()
    data = [describe(m) | {"loaded": m.name in loaded} for m in found]
    return {"object": "list", "data": data}


@router.get("/v1/models/{model_id:path}", responses=error_responses(401, 403, 404, 503))
async def model(request: Request, model_id: str) -> dict[str, Any]:
    """One model."""
    service = service_of(request)
    found = await asyncio.to_thread(service.find, model_id)
    return describe(found) | {"loaded": found.name in service.residency.names()}
