"""Liveness, readiness, version."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from sidecar import __version__

router = APIRouter(tags=["health"])


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """The state of the process; 200 for as long as it lives."""
    document: dict[str, Any] = request.app.state.service.health()
    return document


@router.get("/health/ready", responses={503: {"description": "Not ready for requests"}})
async def ready(request: Request) -> JSONResponse:
    """200 when requests will be served, else 503."""
    document = request.app.state.service.health()
    return JSONResponse(document, 200 if document["status"] == "ready" else 503)


@router.get("/version")
async def version() -> dict[str, str]:
    """The program's version."""
    return {"version": __version__}
