"""Folders whose documents are kept findable."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from host_api.app.services import Host

router = APIRouter(tags=["folders"])


class Path(BaseModel):
    """A folder on this machine, by its whole path."""

    path: str = Field(min_length=1, max_length=4096)


@router.get("/folders")
async def folders(host: Host) -> list[dict[str, Any]]:
    """Return the watched folders, with their state and what in them can't be read."""
    return await host.folders.all()


@router.post("/folders", status_code=201)
async def add(body: Path, host: Host) -> dict[str, str]:
    """Watch a folder: index what is in it now, and follow what changes."""
    folder = await host.folders.add(body.path)
    return {"id": folder.id, "path": folder.path}


@router.delete("/folders/{folder_id}", status_code=204)
async def remove(folder_id: str, host: Host) -> Response:
    """Stop watching a folder, and forget its documents."""
    await host.folders.remove(folder_id)
    return Response(status_code=204)
