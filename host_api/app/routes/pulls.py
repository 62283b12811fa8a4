"""Models to download: the sidecar's catalogue, and pulls passed on to it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from host_api.app.models.gateway import checked
from host_api.app.services import Host

router = APIRouter(prefix="/models", tags=["models"])


class Wanted(BaseModel):
    """An alias of the catalogue, or a hub id."""

    model: str = Field(min_length=1, max_length=200)


@router.get("/catalogue")
async def catalogue(host: Host) -> dict[str, Any]:
    """What the sidecar can download by an alias, what suits this machine, and what is here."""
    target = await host.gateway.builtin()
    async with host.gateway.client(target) as http:
        return checked(await http.get("/models/catalogue"))


@router.get("/details")
async def details(host: Host) -> dict[str, Any]:
    """What the sidecar says of each of its models: size, context, memory while it is loaded, profiles and settings."""
    target = await host.gateway.builtin()
    async with host.gateway.client(target) as http:
        return checked(await http.get("/models"))


@router.get("/pulls")
def pulls(host: Host) -> list[dict[str, Any]]:
    """The downloads of this run of the service: those that run, and how the last ones ended."""
    return [p.document() for p in host.pulls.all()]


@router.post("/pulls", status_code=202)
async def pull(body: Wanted, host: Host) -> dict[str, Any]:
    """Download a model; it goes on when the page is closed. Asked twice it is one download."""
    return (await host.pulls.start(body.model.strip())).document()


@router.delete("/pulls/{model:path}", status_code=204)
async def end(model: str, host: Host) -> Response:
    """Cancel a download (what came is kept for the next time), or forget one that has ended."""
    await host.pulls.end(model)
    return Response(status_code=204)
