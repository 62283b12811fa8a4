"""Downloads of models: the sidecar pulls, this service keeps asking it to, whichever page is open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from host_api.app.data.providers import Store
from host_api.app.data.tables import BUILTIN
from host_api.app.errors import ApiError, not_found
from host_api.app.models.gateway import Gateway, Target, checked, reason

log = logging.getLogger("host.pulls")

RUNNING = "running"
DONE = "done"
FAILED = "failed"
CANCELLED = "cancelled"
_KEPT = 20
_SHOWN = ("status", "file", "completed", "total", "rate", "seconds_left", "message")


@dataclass
class Pull:
    """One download. ``progress`` is the sidecar's last event."""

    model: str
    state: str = RUNNING
    error: str | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    def document(self) -> dict[str, Any]:
        """As JSON: bytes, bytes a second, seconds."""
        shown = {name: self.progress.get(name) for name in _SHOWN}
        return {"model": self.model, "state": self.state, "error": self.error, **shown}


class Pulls:
    """Those of this run of the service; what came of an unfinished one is kept by the sidecar and gone on with."""

    def __init__(self, gateway: Gateway, store: Store) -> None:
        self._gateway = gateway
        self._store = store
        self._pulls: dict[str, Pull] = {}

    def all(self) -> list[Pull]:
        """The newest last."""
        return list(self._pulls.values())

    async def start(self, model: str) -> Pull:
        """Begin a download, or find the one that runs. Raises a 503 while the sidecar is off."""
        target = await self._gateway.builtin()
        found = self._pulls.get(model)
        if found is not None and found.state == RUNNING:
            return found
        self._pulls.pop(model, None)
        for old in [p.model for p in self._pulls.values() if p.state != RUNNING][: len(self._pulls) - _KEPT + 1]:
            del self._pulls[old]
        pull = self._pulls[model] = Pull(model)
        pull.task = asyncio.create_task(self._run(pull, target))
        return pull

    async def end(self, model: str) -> None:
        """Cancel a download that runs, forget one that has ended. Raises a 404."""
        found = self._pulls.get(model)
        if found is None:
            raise not_found("pull", model, "GET /models/pulls lists them.")
        if found.state != RUNNING:
            del self._pulls[model]
            return
        await self._stop(found)

    async def close(self) -> None:
        """Stop all of them."""
        for pull in self.all():
            await self._stop(pull)

    async def _stop(self, pull: Pull) -> None:
        if pull.task is not None:
            pull.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pull.task
        if pull.state == RUNNING:  # cancelled before it began
            pull.state = CANCELLED

    async def _run(self, pull: Pull, target: Target) -> None:
        try:
            async with self._gateway.client(target) as http:
                body = {"model": pull.model, "stream": True}
                async with http.stream("POST", "/models/pull", json=body) as answer:
                    async for pull.progress in _events(answer):
                        pass
                if pull.progress.get("status") != "success":
                    raise ApiError(502, "The download ended early; start it again.", code="provider_error")
            models = await self._gateway.models(target)
            await asyncio.to_thread(self._store.sync_models, BUILTIN, models)
            pull.state = DONE
        except asyncio.CancelledError:
            pull.state = CANCELLED
            raise
        except Exception as exc:
            known = isinstance(exc, ApiError)
            log.warning("the download of %s failed: %s", pull.model, exc, exc_info=None if known else exc)
            pull.state = FAILED
            pull.error = exc.message if isinstance(exc, ApiError) else f"{type(exc).__name__}: {exc}"


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The documents of the sidecar's stream. Raises a 502 with its words."""
    if not answer.is_success:
        await answer.aread()
        checked(answer)
    failed = False
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            failed = value == "error"
        elif name == "data" and value != "[DONE]":
            document = json.loads(value)
            if failed:
                raise ApiError(502, reason(document), code="provider_error")
            yield document
