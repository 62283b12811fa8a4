"""From a capability to a model that answers: address, key, name, and calls with clear errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from host_api.app.capabilities import Capability
from host_api.app.db import BUILTIN, Model, Provider
from host_api.app.errors import ApiError
from host_api.app.reconciler import Reconciler
from host_api.app.store import Assigned, Store

START_WAIT = 60.0


@dataclass(frozen=True)
class Target:
    """A model at an address. ``key`` is never logged or returned."""

    provider: str
    base_url: str
    key: str | None
    model: str
    builtin: bool


class Gateway:
    """Every call to a model goes through here."""

    def __init__(self, store: Store, reconciler: Reconciler, *, timeout: float) -> None:
        self._store = store
        self._reconciler = reconciler
        self._timeout = timeout

    async def assigned(self, capability: Capability) -> Assigned:
        """What ``capability`` uses, running or not. Raises a 409 when unassigned."""
        found = await asyncio.to_thread(self._store.assigned, capability)
        if found is None:
            raise ApiError(
                409,
                f"No model is assigned to {capability}: POST /models/global_capability/{capability} assigns one.",
                code="capability_unassigned",
            )
        return found

    async def target(self, capability: Capability) -> Target:
        """Where ``capability`` is served. Raises a 409 when unassigned and a 503 when the sidecar is down."""
        found = await self.assigned(capability)
        return await self._locate(found.provider_id, found.kind, found.base_url, found.key, found.model)

    async def target_of(self, model: Model, provider: Provider) -> Target:
        """Where one model is served, assigned or not. Raises a 503."""
        key = await asyncio.to_thread(self._store.key, provider.id) if provider.has_key else None
        return await self._locate(provider.id, provider.kind, provider.base_url, key, model.name)

    async def _locate(self, provider: str, kind: str, base_url: str | None, key: str | None, model: str) -> Target:
        if kind != BUILTIN:
            return Target(provider, base_url or "", key, model, False)
        if not self._reconciler.state.wanted:
            message = "The built-in model's process is off because no capability uses it; assign one first."
            raise ApiError(503, message, code="sidecar_off")
        link = await self._reconciler.link(START_WAIT)
        return Target(provider, link.base_url, link.token, model, True)

    @asynccontextmanager
    async def client(self, target: Target) -> AsyncIterator[httpx.AsyncClient]:
        """An HTTP client for the target's API; what it raises about the connection becomes an ApiError."""
        headers = {"authorization": f"Bearer {target.key}"} if target.key else {}
        timeout = httpx.Timeout(self._timeout, connect=10.0)
        try:
            async with httpx.AsyncClient(
                base_url=target.base_url, headers=headers, timeout=timeout, trust_env=not target.builtin
            ) as http:
                yield http
        except httpx.TimeoutException as exc:
            raise ApiError(504, f"{target.base_url} did not answer in time.", code="provider_timeout") from exc
        except httpx.HTTPError as exc:
            if target.builtin:
                self._reconciler.suspect()
            message = f"{target.base_url} can't be reached ({type(exc).__name__}); is it running?"
            raise ApiError(502, message, code="provider_unreachable") from exc

    async def post(self, target: Target, path: str, body: dict[str, Any], *, batch: bool = False) -> dict[str, Any]:
        """POST JSON and return JSON. ``batch`` marks work that yields to chats. Raises ApiError."""
        headers = {"x-request-priority": "batch"} if batch and target.builtin else {}
        async with self.client(target) as http:
            answer = await http.post(path, json={"model": target.model, **body}, headers=headers)
        return checked(answer)

    async def models(self, target: Target) -> dict[str, list[str]]:
        """The models a provider serves, with the capabilities it declares. Raises ApiError."""
        async with self.client(target) as http:
            document = checked(await http.get("/models"))
        try:
            return {str(m["id"]): list(m.get("capabilities") or []) for m in document["data"]}
        except (KeyError, TypeError) as exc:
            message = "The provider's /models is not OpenAI's; does base_url end in /v1?"
            raise ApiError(502, message, code="provider_invalid") from exc


def checked(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of a good answer. Raises a 502 with the provider's own words (429 and 503 keep theirs)."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if answer.is_success and isinstance(document, dict):
        return document
    if answer.is_success:
        raise ApiError(502, "The provider's answer is not JSON; does base_url end in /v1?", code="provider_invalid")
    error = document.get("error") if isinstance(document, dict) else None
    said = error.get("message") if isinstance(error, dict) else error or answer.text[:200]
    status = answer.status_code if answer.status_code in (429, 503) else 502
    if answer.status_code in (401, 403):
        said = f"{said} (check the provider's api_key)"
    raise ApiError(status, f"The model's server says {answer.status_code}: {said}", code="provider_error")
