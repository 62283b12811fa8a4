"""From a capability to a model that answers: address, key, name, and calls with clear errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from host_api.app import outgoing
from host_api.app.data.capabilities import Capability
from host_api.app.data.providers import Assigned, Store
from host_api.app.data.tables import BUILTIN, Model, Provider
from host_api.app.errors import ApiError

START_WAIT = 60.0


@dataclass(frozen=True)
class Link:
    """How to reach the running sidecar at ``url``. ``token`` is never logged or returned."""

    url: str
    token: str | None = field(repr=False)
    pid: int
    instance_id: str

    @property
    def api_url(self) -> str:
        """Return the root of its OpenAI API."""
        return f"{self.url}/v1"


class ModelProcess(Protocol):
    """What the gateway needs of whoever looks after the sidecar."""

    @property
    def wanted(self) -> bool:
        """Whether any capability is on the built-in provider."""
        ...

    async def link(self, timeout: float) -> Link:
        """Return the running sidecar, waiting for one that is starting. Raises a 503."""
        ...

    def suspect(self) -> None:
        """Hear that a request could not reach the sidecar."""
        ...


@dataclass(frozen=True)
class Target:
    """A model at an address. ``key`` is never logged or returned."""

    provider: str
    api_url: str
    key: str | None = field(repr=False)
    model: str
    builtin: bool

    @property
    def identity(self) -> str:
        """Return what tells this model's work from another's, at whatever address it is."""
        return f"{self.provider}/{self.model}"


class Gateway:
    """Every call to a model goes through here."""

    def __init__(self, store: Store, process: ModelProcess, *, timeout: float) -> None:
        self._store = store
        self._process = process
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

    async def structured_or_text(self) -> tuple[Assigned, bool]:
        """The model for answers by a schema, else the one for words, and whether the schema may be asked for.

        Raises a 409 when neither is assigned.
        """
        found = await asyncio.to_thread(self._store.assigned, Capability.STRUCTURED_OUTPUT)
        if found is None:
            return await self.assigned(Capability.TEXT), False
        model, _ = await asyncio.to_thread(self._store.model, found.model_id)
        return found, model.capabilities.get(Capability.STRUCTURED_OUTPUT) is not False

    async def structured(self) -> tuple[Target, bool]:
        """Where answers by a schema come from, as ``structured_or_text`` chooses. Raises a 409 or 503."""
        found, schema = await self.structured_or_text()
        return await self._locate(found.provider_id, found.kind, found.base_url, found.key, found.model), schema

    async def target_of(self, model: Model, provider: Provider) -> Target:
        """Where one model is served, assigned or not. Raises a 503."""
        key = await asyncio.to_thread(self._store.key, provider)
        return await self._locate(provider.id, provider.kind, provider.base_url, key, model.name)

    async def builtin(self) -> Target:
        """The sidecar itself, no model of it. Raises a 503."""
        return await self._locate(BUILTIN, BUILTIN, None, None, "")

    async def _locate(self, provider: str, kind: str, base_url: str | None, key: str | None, model: str) -> Target:
        if kind != BUILTIN:
            return Target(provider, base_url or "", key, model, False)
        if not self._process.wanted:
            message = "The built-in model's process is off because no capability uses it; assign one first."
            raise ApiError(503, message, code="sidecar_off")
        link = await self._process.link(START_WAIT)
        return Target(provider, link.api_url, link.token, model, True)

    @asynccontextmanager
    async def client(self, target: Target) -> AsyncIterator[httpx.AsyncClient]:
        """An HTTP client for the target's API; what it raises about the connection becomes an ApiError."""
        try:
            async with outgoing.client(target.api_url, key=target.key, timeout=self._timeout) as http:
                yield http
        except httpx.TimeoutException as exc:
            raise ApiError(504, f"{target.api_url} did not answer in time.", code="provider_timeout") from exc
        except httpx.HTTPError as exc:
            if target.builtin:
                self._process.suspect()
            message = f"{target.api_url} can't be reached ({type(exc).__name__}); is it running?"
            raise ApiError(502, message, code="provider_unreachable") from exc

    async def post(self, target: Target, path: str, body: dict[str, Any], *, batch: bool = False) -> dict[str, Any]:
        """POST JSON and return JSON. ``batch`` marks work that yields to chats. Raises ApiError."""
        headers = {"x-request-priority": "batch"} if batch and target.builtin else {}
        async with self.client(target) as http:
            answer = await http.post(path, json={"model": target.model, **body}, headers=headers)
        return checked(answer)

    async def models(self, target: Target) -> dict[str, list[str]]:
        """The models a provider serves, with the capabilities it declares, if any. Raises ApiError."""
        async with self.client(target) as http:
            answer = await http.get("/models")
            if answer.status_code == 404 and not re.search(r"/v\d+\w*$", target.api_url):
                other = await http.get("/v1/models")
                if other.is_success:
                    message = f"{target.api_url} has no /models, but {target.api_url}/v1 has: make that the base_url."
                    raise ApiError(502, message, code="provider_address")
        return listed(answer)

    async def context(self, target: Target) -> int | None:
        """Return how many tokens a model of the sidecar takes, or None where that isn't known."""
        with contextlib.suppress(ApiError):
            async with self.client(target) as http:
                rows = checked(await http.get("/models")).get("data")
            for row in rows if isinstance(rows, list) else ():
                if isinstance(row, dict) and row.get("id") == target.model:
                    own = (row.get("settings") or {}).get("context")
                    found = own or row.get("context_length")
                    return found if isinstance(found, int) and found > 0 else None
        return None


def listed(answer: httpx.Response) -> dict[str, list[str]]:
    """The models of an answer to ``/models``, each with the capabilities declared for it. Raises a 502.

    Servers agree on ``data`` with an ``id`` each and on no more: some send a bare list, some null for none.
    """
    document = _json(answer)
    rows = document if isinstance(document, list) and answer.is_success else checked(answer).get("data", False)
    if rows is None:
        return {}
    if not isinstance(rows, list) or not all(isinstance(m, dict) and m.get("id") for m in rows):
        raise ApiError(
            502, "The provider's /models is not OpenAI's; does base_url end in /v1?", code="provider_invalid"
        )
    return {str(m["id"]): _declared(m.get("capabilities")) for m in rows}


def _declared(given: Any) -> list[str]:
    """Names out of a list of them, or those that are true of an object's."""
    if isinstance(given, dict):
        return [str(name) for name, has in given.items() if has is True]
    return [name for name in given if isinstance(name, str)] if isinstance(given, list) else []


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def checked(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of a good answer. Raises a 502 with the provider's own words (429 and 503 keep theirs)."""
    document = _json(answer)
    if answer.is_success and isinstance(document, dict) and not (document.get("error") and "choices" not in document):
        return document
    if answer.is_success and not isinstance(document, dict):
        raise ApiError(502, "The provider's answer is not JSON; does base_url end in /v1?", code="provider_invalid")
    said = reason(answer.text if document is None else document)
    status = answer.status_code if answer.status_code in (429, 503) else 502
    if answer.status_code in (401, 403):
        said = f"{said} (check the provider's api_key)"
    raise ProviderRefusal(status, f"The model's server says {answer.status_code}: {said}", answer.status_code)


class ProviderRefusal(ApiError):
    """The provider answered with an error; ``answered`` is its HTTP status."""

    def __init__(self, status: int, message: str, answered: int) -> None:
        super().__init__(status, message, code="provider_error")
        self.answered = answered


_LONGEST_REASON = 300


def reason(body: object) -> str:
    """What a provider's error says, in words, whatever shape it has.

    Seen: ``{"error": {"message"}}`` (OpenAI, vLLM, Ollama's /v1), ``{"error": "text"}`` (Ollama, mlx-vlm's streams),
    ``{"detail": …}`` (FastAPI: text, or a list of what is wrong where), ``{"message"}`` (older vLLM), text, HTML.
    """
    said = _said(body)
    if re.match(r"\s*<(!doctype|html)", said, re.IGNORECASE):
        title = re.search(r"<title[^>]*>(.*?)</title>", said, re.IGNORECASE | re.DOTALL)
        said = title[1] if title else re.sub(r"<[^>]+>", " ", said)
    said = " ".join(said.split())
    if len(said) > _LONGEST_REASON:
        said = said[: _LONGEST_REASON - 1] + "…"
    return said or "no reason given"


def _said(body: object) -> str:
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    if isinstance(body, str):
        with contextlib.suppress(ValueError):
            inner = json.loads(body)
            if isinstance(inner, (dict, list)):
                return _said(inner)
        return body
    if isinstance(body, list):
        return "; ".join(filter(None, map(_said, body)))
    if isinstance(body, dict):
        where = ".".join(str(p) for p in body["loc"] if p != "body") if isinstance(body.get("loc"), list) else ""
        for name in ("error", "detail", "message", "msg", "reason", "title"):
            if body.get(name) and (said := _said(body[name])):
                return f"{where}: {said}" if where else said
        return json.dumps(body, default=str) if body else ""
    return "" if body is None else str(body)
