"""Models as requests name them: found, brought into memory, let go, deleted. On the event loop's thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from host_api.loopback import durations
from sidecar.backend import loader
from sidecar.config import Settings
from sidecar.engine.messages import ModelInfo
from sidecar.errors import ApiError, LoadError, bad_request
from sidecar.models import profiles
from sidecar.models.downloads import human
from sidecar.models.downloads.manager import Downloads
from sidecar.models.downloads.store import BeingPulled, pulled_elsewhere
from sidecar.models.profiles import SAMPLING, Book, Profiles
from sidecar.models.registry import LocalModel, ModelNotFound, Registry, describe
from sidecar.models.residency import InUse, NotEnoughMemory, Residency
from sidecar.models.warm_start import WarmStart
from sidecar.text import thinking

log = logging.getLogger("sidecar.server")

DEFAULT_MODEL = "starter"


class ModelUse:
    """What the routes do with models; every error is one a client can be shown."""

    def __init__(
        self, settings: Settings, registry: Registry, residency: Residency, downloads: Downloads, warm: WarmStart
    ) -> None:
        self.profiles = Profiles(settings.data_dir / profiles.FILE)
        self._settings = settings
        self._registry = registry
        self._residency = residency
        self._downloads = downloads
        self._warm = warm

    def find(self, name: str | None) -> LocalModel:
        """The local model a request names, by itself or with a profile, or the default. Raises a 404."""
        return self.find_with_preset(name)[0]

    def find_with_preset(self, name: str | None) -> tuple[LocalModel, dict[str, Any]]:
        """The local model a request names, under that name, and what its profile sets. Raises a 404."""
        wanted = name or self._settings.model or DEFAULT_MODEL
        book = self.profiles.book()
        try:
            local = self._registry.resolve(wanted)
            return local, book.of(local.name)
        except ModelNotFound as exc:
            base, colon, profile = wanted.rpartition(":")
            if colon and base:
                with contextlib.suppress(ModelNotFound):
                    return self._with_profile(self._registry.resolve(base), profile, book)
            self._say_if_pulled(wanted)
            raise ApiError(404, str(exc), code="model_not_found", param="model") from exc

    def _with_profile(self, local: LocalModel, profile: str, book: Book) -> tuple[LocalModel, dict[str, Any]]:
        known = book.names(local.name)
        if profile not in known:
            there = f"there is {', '.join(known)}" if known else "there is none"
            trouble = f" ({book.problems[0]})" if book.problems else ""
            raise ApiError(
                404,
                f"{local.name} has no profile {profile!r} in {self.profiles.path.name}: {there}.{trouble}",
                code="model_not_found",
                param="model",
            )
        return replace(local, name=f"{local.name}:{profile}", profile=profile), book.of(local.name, profile)

    def listed(self, model: LocalModel) -> list[dict[str, Any]]:
        """The documents of a model: its own, then one for each of its profiles."""
        book = self.profiles.book()
        names = book.names(model.name)
        own = describe(model) | self.state(model)
        own |= {"settings": profiles.shown(book.of(model.name)), "profiles": [f"{model.name}:{n}" for n in names]}
        others = [
            own
            | {"id": f"{model.name}:{n}", "parent": model.name, "profiles": []}
            | {"settings": profiles.shown(book.of(model.name, n))}
            for n in names
        ]
        return [own, *others]

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
        local, preset = await asyncio.to_thread(self.find_with_preset, name)
        try:
            given = preset.get("keep_alive") if keep_alive is None else keep_alive
            seconds = None if given is None else durations.parse(given)
        except ValueError as exc:
            raise bad_request(f"keep_alive: {exc}.", param="keep_alive") from exc
        try:
            config = await asyncio.to_thread(loader.read_config, local.path)
            actual = "embedding" if loader.is_embedding(local.path, config) else "chat"
            if kind is not None and actual != kind:
                use = "/v1/embeddings" if actual == "embedding" else "/v1/chat/completions"
                raise ApiError(400, f"{local.name} is a model for {use}.", param="model", code="wrong_model_kind")
            plain = local.name.removesuffix(f":{local.profile}") if local.profile else local.name
            async with self._residency.use(plain, local.path, actual, keep_alive=seconds) as loaded:
                if actual == "chat":
                    self._warm.used(plain)
                yield local.name, _preset(loaded, preset)
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
        delete = partial(_deleted, self._registry, name)
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


def _preset(model: ModelInfo, preset: dict[str, Any]) -> ModelInfo:
    """Return a model as its profile makes it: with other defaults, and perhaps another template."""
    if not preset:
        return model
    sampling = {name: float(preset[name]) for name in SAMPLING if name in preset}
    found = replace(model, preset=preset, defaults={**model.defaults, **sampling})
    if template := preset.get("template"):
        found = replace(
            found,
            thinks=thinking.markers_of(template) is not None,
            thinking_optional=thinking.can_be_off(template),
        )
    return found


def _deleted(registry: Registry, name: str) -> int:
    try:
        return registry.remove(name)
    except BeingPulled as exc:  # it began after the look
        raise ApiError(409, str(exc), code="model_in_use") from exc
