"""How the service and the sidecar are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Any

import httpx
import psutil
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from host_api.app import outgoing
from host_api.app.services import Host, Services

router = APIRouter(tags=["status"])


@router.get("/health")
async def health() -> dict[str, Any]:
    """200 for as long as the service lives."""
    return {"status": "ok", "service": "mlx-host", "pid": os.getpid()}


@router.get("/status")
async def status(host: Host) -> dict[str, Any]:
    """The sidecar, its model and queue, memory, what happened to it; tasks, capabilities."""
    return await look(host)


@router.get("/events", response_class=StreamingResponse)
async def events(host: Host) -> StreamingResponse:
    """What a page shows, as server-sent events: status, sessions, tasks, pulls and models, each when it changed."""
    return StreamingResponse(host.feed.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def look(host: Services) -> dict[str, Any]:
    """Return how the service and the sidecar are."""
    state = host.reconciler.state
    engine: dict[str, Any] | None = None
    generated: int | None = None
    if state.url is not None:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            async with outgoing.client(state.url, key=host.reconciler.key, timeout=5.0) as http:
                engine = (await http.get("/health")).json()
                generated = _generated((await http.get("/metrics")).text)
    counts = await asyncio.to_thread(host.jobs.counts)
    assigned = await asyncio.to_thread(host.store.assignments)
    memory, listener = await asyncio.to_thread(_memory_of_tree, state.pid)
    return {
        "host": {
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - host.started, 1),
            "memory_bytes": _memory(psutil.Process()),
        },
        "sidecar": {
            **state.document(),
            "memory_bytes": memory,
            "listener_bytes": listener,
            "status": engine.get("status") if engine else None,
            "model": engine.get("model") if engine else None,
            "loading": engine.get("loading") if engine else None,
            "queue": engine.get("queue") if engine else None,
            "error": engine.get("error") if engine else None,
            "generated_tokens": generated,
            "events": host.reconciler.events(),
        },
        "tasks": counts,
        "tasks_trouble": host.worker.trouble,
        "capabilities": {c: {"model": m.name, "provider": p.name} for c, (m, p) in assigned.items()},
    }


def _generated(metrics: str) -> int:
    """Return how many tokens the sidecar has written since it started."""
    lines = (x for x in metrics.splitlines() if x.startswith("mlx_sidecar_generation_tokens_total"))
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


def _memory(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _memory_of_tree(pid: int | None) -> tuple[int | None, int | None]:
    """Return the bytes of the sidecar with all its processes, and of its listener alone. Blocking.

    The listener holds no model: that is in the engine, a child of it, and a spare engine may wait beside it.
    """
    if pid is None:
        return None, None
    try:
        listener = psutil.Process(pid)
        own = int(listener.memory_info().rss)
        return own + sum(map(_memory, listener.children(recursive=True))), own
    except psutil.Error:
        return None, None


@router.post("/sidecar/restart", status_code=202)
async def restart(host: Host) -> dict[str, Any]:
    """Stop the sidecar and start it again."""
    await host.reconciler.restart()
    return (await host.reconciler.settle(60.0)).document()
