"""Models as requests name them: found, brought into memory, let go, deleted. On the event loop's thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from host_api.loopback import durations
from sidecar.backend import loader
from sidecar.config import Settings
from sidecar.engine.messages import ModelInfo
from sidecar.errors import ApiError, LoadError, bad_request
from sidecar.models.downloads import human
from sidecar.models.downloads.manager import Downloads
from sidecar.models.downloads.store import pulled_elsewhere
from sidecar.models.registry import LocalModel, ModelNotFound, Registry
from sidecar.models.residency import InUse, NotEnoughMemory, Residency
from sidecar.models.warm_start import WarmStart

log = logging.getLogger("sidecar.server")

DEFAULT_MODEL = "starter"


class ModelUse:
    """What the routes do with models; every error is one a client can be shown."""

    def __init__(
        self, settings: Settings, registry: Registry, residency: Residency, downloads: Downloads, warm: WarmStart
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._residency = residency
        self._downloads = downloads
        self._warm = warm

    def find(self, name: str | None) -> LocalModel:
        """The local model a request names, or the default. Raises a 404."""
        wanted = name or self._settings.model or DEFAULT_MODEL
        try:
            return self._registry.resolve(wanted)
        except ModelNotFound as exc:
            self._say_if_pulled(wanted)
            raise ApiError(404, str(exc), code="model_not_found", param="model") from exc

    def _say_if_pulled(self, name: str) -> None:
        """Raise a 503 with the progress when the model is on its way, by this server's pull or another's."""
        try:
            hub_id = self._registry.hub_id(name)
        except ModelNotFound:
            return
        own = self._downloads.progress(hub_id)
        progress = own.document() if own is not None else pulled_elsewhere(self._registry.cache, hub_id)
        if progress is None:
            return
        done, total, left = (progress.get(k) or 0 for k in ("completed", "total", "seconds_left"))
        part = f"{human(done)} of {human(total)}" if total else "it has just begun"
        raise ApiError(
            503,
            f"The model {name!r} is being pulled: {part}. Ask again when it is there.",
            code="model_being_pulled",
            param="model",
            retry_after=max(1, min(60, round(left or 5))),
            extra={"progress": progress},
        )

    @asynccontextmanager
    async def use(
        self, name: str | None, *, kind: str | None = "chat", keep_alive: str | float | None = None
    ) -> AsyncIterator[tuple[str, ModelInfo]]:
        """The name and loaded model for a request, kept in memory meanwhile. ``kind`` None: either. Raises ApiError."""
        try:
            seconds = None if keep_alive is None else durations.parse(keep_alive)
        except ValueError as exc:
            raise bad_request(f"keep_alive: {exc}.", param="keep_alive") from exc
        local = await asyncio.to_thread(self.find, name)
        try:
            config = await asyncio.to_thread(loader.read_config, local.path)
            actual = "embedding" if loader.is_embedding(local.path, config) else "chat"
            if kind is not None and actual != kind:
                use = "/v1/embeddings" if actual == "embedding" else "/v1/chat/completions"
                raise ApiError(400, f"{local.name} is a model for {use}.", param="model", code="wrong_model_kind")
            async with self._residency.use(local.name, local.path, actual, keep_alive=seconds) as loaded:
                if actual == "chat":
                    self._warm.used(local.name)
                yield local.name, loaded
        except NotEnoughMemory as exc:
            raise self._too_large(local, exc) from exc
        except LoadError as exc:
            log.error("%s can't be loaded: %s", local.name, exc)
            raise ApiError(422, str(exc), param="model", code="model_load_failed") from exc

    async def remove(self, name: str) -> int:
        """Delete a model that nobody uses or pulls; the bytes freed. Raises ApiError, ModelNotFound, OSError."""
        with contextlib.suppress(ModelNotFound):
            hub_id = self._registry.hub_id(name)
            if self._downloads.progress(hub_id) or pulled_elsewhere(self._registry.cache, hub_id):
                raise ApiError(409, f"{name} is being pulled; end that first.", code="model_in_use")
        delete = partial(self._registry.remove, name)
        try:
            path = (await asyncio.to_thread(self._registry.resolve, name)).path
        except ModelNotFound:
            freed = await asyncio.to_thread(delete)  # only partly here
        else:
            try:
                freed = await self._residency.remove(path, delete)
            except InUse as exc:
                text = f"{name} is in use; try again when its requests are done."
                raise ApiError(409, text, code="model_in_use") from exc
        log.info("%s is deleted", name)
        return freed

    async def unload(self, name: str) -> LocalModel:
        """Let a model's memory go, after what runs on it. Raises ApiError."""
        local = await asyncio.to_thread(self.find, name)
        if await self._residency.unload(local.path):
            log.info("%s is unloaded", local.name)
        self._warm.forget()
        return local

    def state(self, model: LocalModel) -> dict[str, Any]:
        """What of a model's document changes: whether it is in memory, or on its way there."""
        return {"installed": True, **self._residency.state(model.path)}

    def _too_large(self, local: LocalModel, exc: NotEnoughMemory) -> ApiError:
        need, available = exc.need, exc.available
        smaller = self._registry.smaller(available, than=local)
        advice = f"Take a smaller one, such as {smaller.alias} (about {smaller.size_gb:g} GB)" if smaller else ""
        text = (
            f"{local.name} needs about {human(need.total)} ({human(need.weights)} weights, {human(need.kv)} for "
            f"{need.tokens} tokens of context) and {human(available)} are available. "
            f"{advice + ', or close' if advice else 'Close'} other programs. (--no-memory-check loads it all the same.)"
        )
        log.error("%s", text)
        numbers = {"needed_bytes": need.total, "available_bytes": available}
        extra = numbers | ({"suggestion": smaller.alias} if smaller else {})
        return ApiError(422, text, code="not_enough_memory", param="model", extra=extra)
