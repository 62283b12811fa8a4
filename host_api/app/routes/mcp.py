"""MCP servers: which there are, what they can, what was allowed."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from host_api.app.services import Host

router = APIRouter(tags=["mcp"])


class Answer(BaseModel):
    """Whether a tool may run, this time or always."""

    approved: bool
    always: bool = False


@router.get("/mcp")
async def servers(host: Host) -> dict[str, Any]:
    """The servers of mcp.json with their tools, what is wrong with them, and which tools may run unasked."""
    found = await host.mcp.all()
    await asyncio.gather(*(server.ready() for server in found))
    allowed = await asyncio.to_thread(host.consents.allowed)
    path = str(host.settings.data_dir / "mcp.json")
    return {"file": path, "error": host.mcp.error, "servers": [s.document() for s in found], "allowed": allowed}


@router.post("/chat/approvals/{approval_id}", status_code=204)
async def approve(approval_id: str, body: Answer, host: Host) -> Response:
    """Let a tool that waits in a chat run, or not."""
    await host.consents.answer(approval_id, approved=body.approved, always=body.always)
    return Response(status_code=204)


@router.delete("/mcp/allowed/{name:path}", status_code=204)
async def ask_again(name: str, host: Host) -> Response:
    """Have a tool (server/tool) ask again before it runs."""
    await asyncio.to_thread(host.consents.forget, name)
    return Response(status_code=204)
