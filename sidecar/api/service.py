"""One server's life and admission: start, watch, drain, who is being served, the state /health shows."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from host_api.loopback import durations
from host_api.loopback.ticks import tick
from host_api.protocol.folders import lent
from sidecar import __version__
from sidecar.api import progress
from sidecar.api.model_use import ModelUse
from sidecar.api.power import Quieting
from sidecar.config import Settings
from sidecar.engine import memory
from sidecar.engine.client import EngineClient
from sidecar.engine.messages import Tier
from sidecar.engine.metrics import Meter
from sidecar.errors import ApiError
from sidecar.models import pressure
from sidecar.models.downloads import Effort
from sidecar.models.downloads.manager import Downloads
from sidecar.models.pressure import Shed, Shedder
from sidecar.models.registry import Registry
from sidecar.models.residency import Residency
from sidecar.models.warm_start import WarmStart

log = logging.getLogger("sidecar.server")

_WATCH_INTERVAL = 0.25  # seconds between looks at what runs
_IDLE_INTERVAL = 1.0  # the same where nothing does
_PRESSURE_INTERVAL = 2.0


class Service:
    """One server's state. Lives on the event loop's thread."""

    def __init__(self, settings: Settings, engine: EngineClient, meter: Meter, *, instance_id: str) -> None:
        self.settings = settings
        self.instance_id = instance_id
        self.engine = engine
        self.meter = meter
        self.registry = Registry(settings, lent=lambda: lent(settings.state_dir))
        self.residency = Residency(
            self.engine,
            max_chat=settings.max_resident,
            keep_alive=durations.parse(settings.keep_alive),
            room=partial(memory.room, limit=settings.memory_limit_mb << 20) if settings.memory_check else None,
        )
        self._warm = WarmStart(settings.state_dir)
        self._shedder = Shedder()
        engine.on_lost = self.residency.lost
        self.downloads = Downloads(
            cache=self.registry.cache,
            mirrors=settings.hub_mirror,
            effort=Effort(stall=settings.pull_stall, attempts=settings.pull_attempts),
        )
        self.models = ModelUse(settings, self.registry, self.residency, self.downloads, self._warm)
        self.load = progress.Load()
        self.quieting = Quieting(engine.hold, wanted=settings.quiet)
        self.draining = False
        self._started = time.monotonic()
        self._active = 0
        self._waiting = dict.fromkeys(Tier, 0)
        self._tasks: list[asyncio.Task[None]] = []

    # --- life ----------------------------------------------------------------------------------------
    def start(self) -> None:
        """Watch the engine, and begin loading the start model when there is one."""
        self.models.profiles.book()  # what is wrong with it is said now
        self._tasks.append(asyncio.create_task(self._watch_engine()))
        self._tasks.append(asyncio.create_task(self._tend()))
        if self.settings.model:
            self._tasks.append(asyncio.create_task(self._load_at_start(self.settings.model)))
        elif self.settings.warm_start and (name := self._warm.begin()):
            self._tasks.append(asyncio.create_task(self._load_at_start(name, asked=False)))

    async def _load_at_start(self, name: str, *, asked: bool = True) -> None:
        try:
            async with self.models.use(name):
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
            await self._next_look()
            try:
                progress.loading(self, time.monotonic())
                await self.quieting.look(time.monotonic())
                for name in await self.residency.sweep():
                    log.info("%s was not used any more and is unloaded", name)
                if self.settings.pressure_watch and time.monotonic() - checked >= _PRESSURE_INTERVAL:
                    checked = time.monotonic()
                    await self.relieve(pressure.read(), checked)
            except Exception:
                log.exception("memory could not be given up; it is tried again")

    async def relieve(self, level: pressure.Level, now: float) -> None:
        """Give up what the policy says at a level of memory pressure."""
        what = self._shedder.decide(level, now)
        if what is Shed.CACHES:
            log.warning("the machine is short of memory: caches are given up")
            await self.engine.shed()
        elif what is Shed.MODEL:
            for name in await self.residency.shed():
                log.warning("the machine is short of memory: %s is unloaded", name)

    async def _next_look(self) -> None:
        """Sleep until the time of the next look, which is the same for every loop that looks."""
        busy = self._active or self.residency.loading is not None
        await tick(_WATCH_INTERVAL if busy else _IDLE_INTERVAL)

    async def _watch_engine(self) -> None:
        """End a stuck engine. A server whose engines don't come up must not go on listening: it exits 1."""
        while True:
            await self._next_look()
            try:
                self.engine.check(self.settings.stall_timeout)
            except Exception:
                log.exception("the engine could not be looked at; it is tried again")
            if self.engine.failed is not None:
                log.critical("no engine comes up (%s); giving up", self.engine.failed)
                await asyncio.sleep(2 * _WATCH_INTERVAL)  # let /health and the errors be seen
                logging.shutdown()
                os._exit(1)

    async def close(self) -> None:
        """End the engine."""
        await self.engine.close()

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
    def queued(self, tier: Tier) -> Iterator[Callable[[], None]]:
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

    # --- state ---------------------------------------------------------------------------------------
    def health(self) -> dict[str, Any]:
        """The /health document."""
        loaded = self.residency.names("chat")
        load = progress.loading(self, time.monotonic())
        if self.engine.failed is not None:
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
            "load_progress": self.engine.pulse.load_progress,
            "load_seconds_left": load["seconds_left"] if load is not None else None,
            "pulls": [p.document() for p in self.downloads.running()],
            "queue": {tier.label: {"waiting": self._waiting[tier], **self._running(tier)} for tier in Tier},
            "progress": [progress.document(p) for p in self.engine.pulse.progress],
            "quiet": self.quieting.document(),
            "engine": {
                "pid": self.engine.pid,
                "deaths": self.engine.death_count,
                "last_deaths": list(self.engine.deaths),
            },
            "error": self.engine.failed or self.residency.error,
        }

    def _running(self, tier: Tier) -> dict[str, int]:
        return {"running": self.engine.running(tier)}

    def metrics(self) -> bytes:
        """Return the Prometheus text."""
        for tier in Tier:
            self.meter.waiting.labels(tier.label).set(self._waiting[tier])
            self.meter.running.labels(tier.label).set(self.engine.running(tier))
        for kind, size in self.engine.pulse.memory.items():
            self.meter.memory.labels(kind).set(size)
        return self.meter.text()
