"""What the routes share: settings, engine, models in memory, who is being served, the state /health shows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from host_api.loopback import durations
from sidecar import __version__
from sidecar.config import Settings
from sidecar.engine import memory
from sidecar.engine.messages import Tier
from sidecar.engine.metrics import Meter
from sidecar.engine.thread import Engine
from sidecar.errors import ApiError, bad_request
from sidecar.models import pressure
from sidecar.models.downloads import Effort, human
from sidecar.models.downloads.manager import Downloads
from sidecar.models.downloads.store import pulled_elsewhere
from sidecar.models.pressure import Shed, Shedder
from sidecar.models.registry import LocalModel, ModelNotFound, Registry
from sidecar.models.residency import InUse, NotEnoughMemory, Residency
from sidecar.models.warm_start import WarmStart

if TYPE_CHECKING:
    from sidecar.backend.loader import LoadedModel

log = logging.getLogger("sidecar.server")

DEFAULT_MODEL = "starter"
_WATCH_INTERVAL = 0.25
_PRESSURE_INTERVAL = 2.0


class Service:
    """One server's state. Lives on the event loop's thread."""

    def __init__(self, settings: Settings, *, instance_id: str) -> None:
        self.settings = settings
        self.instance_id = instance_id
        self.meter = Meter()
        self.registry = Registry(settings)
        self.engine = Engine(settings, self.meter, on_death=self._engine_died)
        self.residency = Residency(
            self.engine,
            max_chat=settings.max_resident,
            keep_alive=durations.parse(settings.keep_alive),
            room=partial(memory.room, limit=settings.memory_limit_mb << 20) if settings.memory_check else None,
        )
        self._warm = WarmStart(settings.state_dir)
        self._shedder = Shedder()
        self.downloads = Downloads(
            cache=self.registry.cache,
            mirrors=settings.hub_mirror,
            effort=Effort(stall=settings.pull_stall, attempts=settings.pull_attempts),
        )
        self.draining = False
        self.death: BaseException | None = None
        self._started = time.monotonic()
        self._active = 0
        self._waiting = dict.fromkeys(Tier, 0)
        self._tasks: list[asyncio.Task[None]] = []

    # --- life ----------------------------------------------------------------------------------------
    def start(self) -> None:
        """Watch the engine, and begin loading the start model when there is one."""
        self._tasks.append(asyncio.create_task(self._watch_engine()))
        self._tasks.append(asyncio.create_task(self._tend()))
        if self.settings.model:
            self._tasks.append(asyncio.create_task(self._load_at_start(self.settings.model)))
        elif self.settings.warm_start and (name := self._warm.begin()):
            self._tasks.append(asyncio.create_task(self._load_at_start(name, asked=False)))

    async def _load_at_start(self, name: str, *, asked: bool = True) -> None:
        try:
            async with self.use(name):
                log.info("%s is loaded", name)
        except ApiError as exc:
            if not asked:
                self.residency.error = None
                log.warning("the model used last is not loaded: %s", exc.message)
                return
            self.residency.error = exc.message
            log.error("the start model can't be loaded: %s", exc.message)
        finally:
            if not asked:
                self._warm.survived(name)

    async def _tend(self) -> None:
        """Let models go whose time is over, and give memory up when the machine is short of it."""
        checked = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            try:
                for name in await self.residency.sweep():
                    log.info("%s was not used any more and is unloaded", name)
            except Exception:
                log.exception("an unused model could not be unloaded")
            if self.settings.pressure_watch and time.monotonic() - checked >= _PRESSURE_INTERVAL:
                checked = time.monotonic()
                await self.relieve(pressure.read(), checked)

    async def relieve(self, level: pressure.Level, now: float) -> None:
        """Give up what the policy says at a level of memory pressure."""
        what = self._shedder.decide(level, now)
        if what is Shed.CACHES:
            log.warning("the machine is short of memory: caches are given up")
            await asyncio.wrap_future(self.engine.shed())
        elif what is Shed.MODEL:
            for name in await self.residency.shed():
                log.warning("the machine is short of memory: %s is unloaded", name)

    async def _watch_engine(self) -> None:
        """A server whose engine is dead or stuck must not go on listening: it exits 1 for its supervisor."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            stalled = self.engine.stalled_for()
            if self.settings.stall_timeout and stalled > self.settings.stall_timeout:
                log.critical("the engine has been at one piece of work for %.0f s; giving up", stalled)
                self.death = TimeoutError("the engine is stuck")
            if self.death is not None:
                await asyncio.sleep(_WATCH_INTERVAL)  # let /health be seen
                logging.shutdown()
                os._exit(1)

    def _engine_died(self, exc: BaseException) -> None:
        self.death = exc

    def close(self) -> None:
        """Stop the engine thread. Blocking."""
        self.engine.stop()

    async def drain(self, timeout: float) -> None:
        """Refuse new requests and wait up to ``timeout`` seconds for those that run."""
        self.draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.to_thread(self.downloads.close)  # what came is kept
        end = time.monotonic() + timeout
        while self._active and time.monotonic() < end:
            await asyncio.sleep(0.02)

    # --- requests ------------------------------------------------------------------------------------
    @contextmanager
    def active(self) -> Iterator[None]:
        """Counts a request that a drain waits for."""
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    @contextmanager
    def queued(self, tier: Tier) -> Iterator[Any]:
        """Counts a request as waiting until the yielded function is called. Raises a 429 when the queue is full."""
        limit = self.settings.max_queue if tier is Tier.INTERACTIVE else self.settings.max_batch_queue
        if self._waiting[tier] >= limit:
            raise ApiError(
                429,
                f"{limit} {tier.label} requests are waiting already; try again later.",
                code="queue_full",
                retry_after=2 if tier is Tier.INTERACTIVE else 10,
            )
        self._waiting[tier] += 1
        counted = True

        def begun() -> None:
            nonlocal counted
            if counted:
                counted = False
                self._waiting[tier] -= 1

        try:
            yield begun
        finally:
            begun()

    def find(self, name: str | None) -> LocalModel:
        """The local model a request names, or the default. Raises a 404."""
        wanted = name or self.settings.model or DEFAULT_MODEL
        try:
            return self.registry.resolve(wanted)
        except ModelNotFound as exc:
            self._say_if_pulled(wanted)
            raise ApiError(404, str(exc), code="model_not_found", param="model") from exc

    def _say_if_pulled(self, name: str) -> None:
        """Raise a 503 with the progress when the model is on its way, by this server's pull or another's."""
        try:
            hub_id = self.registry.hub_id(name)
        except ModelNotFound:
            return
        own = self.downloads.progress(hub_id)
        progress = own.document() if own is not None else pulled_elsewhere(self.registry.cache, hub_id)
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
    ) -> AsyncIterator[tuple[str, LoadedModel]]:
        """The name and loaded model for a request, kept in memory meanwhile. ``kind`` None: either. Raises ApiError."""
        from sidecar.backend import loader

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
            async with self.residency.use(local.name, local.path, actual, keep_alive=seconds) as loaded:
                if actual == "chat":
                    self._warm.used(local.name)
                yield local.name, loaded
        except NotEnoughMemory as exc:
            raise self._too_large(local, exc) from exc
        except loader.LoadError as exc:
            log.error("%s can't be loaded: %s", local.name, exc)
            raise ApiError(422, str(exc), param="model", code="model_load_failed") from exc

    async def remove(self, name: str) -> int:
        """Delete a model that nobody uses or pulls; the bytes freed. Raises ApiError, ModelNotFound, OSError."""
        with contextlib.suppress(ModelNotFound):
            hub_id = self.registry.hub_id(name)
            if self.downloads.progress(hub_id) or pulled_elsewhere(self.registry.cache, hub_id):
                raise ApiError(409, f"{name} is being pulled; end that first.", code="model_in_use")
        delete = partial(self.registry.remove, name)
        try:
            path = (await asyncio.to_thread(self.registry.resolve, name)).path
        except ModelNotFound:
            freed = await asyncio.to_thread(delete)  # only partly here
        else:
            try:
                freed = await self.residency.remove(path, delete)
            except InUse as exc:
                text = f"{name} is in use; try again when its requests are done."
                raise ApiError(409, text, code="model_in_use") from exc
        log.info("%s is deleted", name)
        return freed

    async def unload(self, name: str) -> LocalModel:
        """Let a model's memory go, after what runs on it. Raises ApiError."""
        local = await asyncio.to_thread(self.find, name)
        if await self.residency.unload(local.path):
            log.info("%s is unloaded", local.name)
        self._warm.forget()
        return local

    def _too_large(self, local: LocalModel, exc: NotEnoughMemory) -> ApiError:
        need, available = exc.need, exc.available
        smaller = self.registry.smaller(available, than=local)
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

    # --- state ---------------------------------------------------------------------------------------
    def health(self) -> dict[str, Any]:
        """The /health document."""
        loaded = self.residency.names("chat")
        if self.death is not None:
            status = "failed"
        elif self.draining:
            status = "draining"
        elif self.residency.loading:
            status = "loading"
        else:
            status = "ready"
        return {
            "status": status,
            "instance_id": self.instance_id,
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 3),
            "model": loaded[0] if loaded else None,
            "models": self.residency.names(),
            "loading": self.residency.loading,
            "load_progress": self.engine.load_progress,
            "pulls": [p.document() for p in self.downloads.running()],
            "queue": {tier.label: {"waiting": self._waiting[tier], **self._running(tier)} for tier in Tier},
            "error": str(self.death) if self.death is not None else self.residency.error,
        }

    def model_state(self, model: LocalModel) -> dict[str, Any]:
        """What of a model's document changes: whether it is in memory, or on its way there."""
        return {"installed": True, **self.residency.state(model.path)}

    def _running(self, tier: Tier) -> dict[str, int]:
        return {"running": self.engine.counts.get(tier.label, {}).get("running", 0)}

    def metrics(self) -> bytes:
        """The Prometheus text."""
        for tier in Tier:
            self.meter.waiting.labels(tier.label).set(self._waiting[tier])
            self.meter.running.labels(tier.label).set(self._running(tier)["running"])
        with contextlib.suppress(Exception):
            import sys

            if "mlx.core" in sys.modules:
                import mlx.core as mx

                self.meter.memory.labels("active").set(mx.get_active_memory())
                self.meter.memory.labels("cache").set(mx.get_cache_memory())
                self.meter.memory.labels("peak").set(mx.get_peak_memory())
        return self.meter.text()
