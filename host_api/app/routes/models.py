"""Providers, their models, and which model each capability uses."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from host_api.app.data import capabilities
from host_api.app.data.capabilities import Capability
from host_api.app.data.tables import Model, Provider
from host_api.app.errors import ApiError
from host_api.app.models import probes
from host_api.app.services import Host, Services
from host_api.app.sidecar.reconciler import Phase

router = APIRouter(prefix="/models", tags=["models"])
SETTLE = 30.0


class NewProvider(BaseModel):
    """An OpenAI-compatible endpoint; ``base_url`` usually ends in /v1."""

    name: str
    base_url: str
    api_key: str | None = None


class ProviderChange(BaseModel):
    """What to change; an empty ``api_key`` forgets it."""

    name: str | None = None
    base_url: str | None = None
    api_key: str | None = None


class Choice(BaseModel):
    """The model to assign: by id, or by provider and name; null ``model_id`` alone takes the capability away."""

    model_config = {"protected_namespaces": ()}
    model_id: int | None = None
    provider_id: str | None = None
    model: str | None = Field(default=None, min_length=1)


class Probe(BaseModel):
    """Which capabilities to try; all when empty."""

    capabilities: list[Capability] = []


def _provider(row: Provider, host: Services) -> dict[str, Any]:
    url = host.reconciler.state.url
    address = row.base_url if row.base_url else f"{url}/v1" if url else None
    return {"id": row.id, "name": row.name, "kind": row.kind, "base_url": address, "has_key": row.has_key}


def _model(row: Model) -> dict[str, Any]:
    return {
        "id": row.id,
        "provider_id": row.provider_id,
        "name": row.name,
        "capabilities": row.capabilities,
        "present": row.present,
    }


@router.get("")
def models(host: Host, provider_id: str | None = None) -> list[dict[str, Any]]:
    """Every model known, or a provider's."""
    return [_model(m) for m in host.store.models(provider_id)]


@router.get("/providers")
def providers(host: Host) -> list[dict[str, Any]]:
    """Every provider; keys are never shown."""
    return [_provider(p, host) for p in host.store.providers()]


@router.post("/providers", status_code=201)
def add_provider(body: NewProvider, host: Host) -> dict[str, Any]:
    """Name an OpenAI-compatible endpoint."""
    return _provider(host.store.add_provider(body.name, body.base_url, body.api_key), host)


@router.get("/providers/{provider_id}")
def provider(provider_id: str, host: Host) -> dict[str, Any]:
    """One provider."""
    return _provider(host.store.provider(provider_id), host)


@router.put("/providers/{provider_id}")
def change_provider(provider_id: str, body: ProviderChange, host: Host) -> dict[str, Any]:
    """Change a provider's name, address or key."""
    return _provider(host.store.change_provider(provider_id, body.name, body.base_url, body.api_key), host)


@router.delete("/providers/{provider_id}", status_code=204)
async def remove_provider(provider_id: str, host: Host) -> Response:
    """Remove a provider, its models and their assignments."""
    await asyncio.to_thread(host.store.remove_provider, provider_id)
    host.reconciler.trigger()
    return Response(status_code=204)


@router.post("/provider/{provider_id}/discover")
async def discover(provider_id: str, host: Host) -> list[dict[str, Any]]:
    """Ask a provider for its models and remember them."""
    row = await asyncio.to_thread(host.store.provider, provider_id)
    target = await host.gateway.target_of(Model(provider_id=row.id, name=""), row)
    found = await host.gateway.models(target)
    return [_model(m) for m in await asyncio.to_thread(host.store.sync_models, provider_id, found)]


@router.get("/capabilities")
def all_capabilities(host: Host) -> list[dict[str, Any]]:
    """Every capability and the model it uses."""
    assigned = host.store.assignments()
    return [
        {
            "name": c,
            "description": capabilities.DESCRIPTIONS[c],
            "model": _model(assigned[c][0]) if c in assigned else None,
            "provider": _provider(assigned[c][1], host) if c in assigned else None,
        }
        for c in Capability
    ]


@router.get("/global_capability/{capability}")
def global_capability(capability: str, host: Host) -> dict[str, Any]:
    """The model a capability uses; null when none."""
    name = capabilities.parse(capability)
    found = host.store.assignments().get(name)
    return {
        "capability": name,
        "model": _model(found[0]) if found else None,
        "provider": _provider(found[1], host) if found else None,
    }


@router.post("/global_capability/{capability}")
async def assign(
    capability: str, body: Choice, host: Host, wait: bool = Query(True, description="wait for the sidecar")
) -> dict[str, Any]:
    """Assign a model to a capability, or none; the reply says what happened to the sidecar's process."""
    name = capabilities.parse(capability)
    model_id = await asyncio.to_thread(_chosen, body, host)
    before = host.reconciler.state
    await asyncio.to_thread(host.store.assign, name, model_id)
    host.reconciler.trigger()
    after = await host.reconciler.settle(SETTLE) if wait else host.reconciler.state
    document = await asyncio.to_thread(global_capability, capability, host)
    return {
        **document,
        "sidecar": {**after.document(), "happened": _happened(before.pid, after.pid, after.phase, wait)},
    }


def _chosen(body: Choice, host: Services) -> int | None:
    if body.provider_id is None and body.model is None:
        return body.model_id
    if body.model_id is not None or body.provider_id is None or body.model is None:
        raise ApiError(422, "Give model_id, or provider_id and model.", code="invalid_request")
    for row in host.store.models(body.provider_id):
        if row.name == body.model:
            return row.id
    host.store.provider(body.provider_id)
    raise ApiError(
        404,
        f"Provider {body.provider_id!r} has no model {body.model!r}; "
        f"POST /models/provider/{body.provider_id}/discover asks it anew.",
        code="model_not_found",
    )


def _happened(before: int | None, after: int | None, phase: Phase, waited: bool) -> str:
    if phase is Phase.FAILED:
        return "failed"
    if not waited:
        return "pending"
    if after is not None:
        return "kept" if before == after else "started"
    return "stopped" if before is not None else "not_needed"


@router.post("/confirm_capability/{model_id}")
async def confirm(model_id: int, host: Host, body: Probe | None = None) -> dict[str, Any]:
    """Try what a model can do by asking it, and remember the outcome."""
    model, row = await asyncio.to_thread(host.store.model, model_id)
    target = await host.gateway.target_of(model, row)
    wanted = (body.capabilities if body else None) or list(Capability)
    outcomes = {c: await probes.probe(host.gateway, target, c) for c in wanted}
    settled = {c.value: o.ok for c, o in outcomes.items() if o.ok is not None}
    await asyncio.to_thread(host.store.confirm, model_id, settled)
    if outcomes and not settled:
        raise ApiError(502, next(iter(outcomes.values())).detail, code="provider_error")
    return {"model_id": model_id, "results": {c: {"ok": o.ok, "detail": o.detail} for c, o in outcomes.items()}}
