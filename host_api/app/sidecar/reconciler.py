"""Keeps the sidecar's process as the assignments want it: one loop, so that rapid changes coalesce.

Starting is immediate; stopping waits until nothing changed for ``stop_delay``, so that a burst of changes
never stops what its last one needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import httpx

from host_api.app import outgoing
from host_api.app.data.providers import Store
from host_api.app.data.tables import BUILTIN
from host_api.app.errors import ApiError
from host_api.app.models.gateway import Link

log = logging.getLogger("host.reconciler")

LOOK_EVERY = 2.0
_MISSES = 3
_BACKOFF = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_STABLE_AFTER = 10.0


class Phase(StrEnum):
    """What the sidecar's process is doing, as far as this host knows."""

    OFF = "off"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


class Control(Protocol):
    """Process control, see ``host_api.app.sidecar.control``."""

    async def ensure(self) -> Link: ...
    async def stop(self) -> None: ...
    async def close(self) -> None: ...
    def listen(self, changed: Callable[[], None]) -> None: ...


@dataclass(frozen=True)
class State:
    """A snapshot for people. ``starts`` counts how often this host ensured a new sidecar instance."""

    wanted: bool
    phase: Phase
    detail: str
    pid: int | None
    url: str | None
    instance_id: str | None
    starts: int

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "wanted": self.wanted,
            "phase": self.phase,
            "detail": self.detail,
            "pid": self.pid,
            "url": self.url,
            "instance_id": self.instance_id,
            "starts": self.starts,
        }


class Reconciler:
    """Lives on the event loop; ``trigger`` after every change of the assignments."""

    def __init__(
        self,
        store: Store,
        control: Control,
        *,
        stop_delay: float,
        clock: Callable[[], float] = time.monotonic,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self._store = store
        self._control = control
        self._stop_delay = stop_delay
        self._clock = clock
        self._look_every = look_every
        self._serial = 0
        self._settled = -1
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._last_trigger = 0.0
        self._link: Link | None = None
        self._since = 0.0
        self._misses = 0
        self._failures = 0
        self._starts = 0
        self._wanted = False
        self._phase = Phase.OFF
        self._detail = "no capability is on the built-in provider"
        self._restart = False
        self._task: asyncio.Task[None] | None = None

    # --- life ----------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin; returns at once."""
        self.trigger()
        self._control.listen(self._wake.set)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop looking and let go of the sidecar."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._control.close()

    def trigger(self) -> None:
        """The assignments may have changed."""
        self._serial += 1
        self._last_trigger = self._clock()
        self._wake.set()

    def suspect(self) -> None:
        """A request could not reach the sidecar: look now."""
        self._misses = _MISSES
        self._wake.set()

    async def restart(self) -> None:
        """Stop the sidecar and start it again, when it is wanted."""
        self._restart = True
        self.trigger()

    @property
    def wanted(self) -> bool:
        """Whether any capability is on the built-in provider."""
        return self._wanted

    @property
    def state(self) -> State:
        """How things are."""
        link = self._link
        return State(
            self._wanted,
            self._phase,
            self._detail,
            link.pid if link else None,
            link.url if link else None,
            link.instance_id if link else None,
            self._starts,
        )

    async def settle(self, timeout: float) -> State:
        """The state once every change made before this call was acted on, or after ``timeout`` seconds."""
        serial = self._serial
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._settled >= serial)
        return self.state

    async def link(self, timeout: float) -> Link:
        """The running sidecar, waiting for one that is starting. Raises a 503."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._link is not None or self._phase is Phase.FAILED)
        if self._link is None:
            message = f"The built-in model's process is not running: {self._detail}. GET /status says more."
            raise ApiError(503, message, code="sidecar_unavailable", retry_after=2)
        return self._link

    # --- the loop ------------------------------------------------------------------------------------
    async def _run(self) -> None:
        while True:
            self._wake.clear()
            serial = self._serial
            delay: float | None
            try:
                self._wanted = await asyncio.to_thread(self._store.wants_builtin)
                delay = await (self._keep() if self._wanted else self._leave())
            except Exception as exc:
                log.exception("the sidecar could not be looked after")
                delay = await self._failed(exc)
            if self._phase is not Phase.STOPPING:
                async with self._changed:
                    self._settled = max(self._settled, serial)
                    self._changed.notify_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):  # wait_for may swallow the cancellation that close() needs
                    await self._wake.wait()

    async def _set(self, phase: Phase, detail: str) -> None:
        if (phase, detail) != (self._phase, self._detail):
            log.info("sidecar %s: %s", phase, detail)
        async with self._changed:
            self._phase, self._detail = phase, detail
            self._changed.notify_all()

    async def _failed(self, exc: Exception) -> float:
        delay = _BACKOFF[min(self._failures, len(_BACKOFF) - 1)]
        self._failures += 1
        self._link = None
        await self._set(Phase.FAILED, f"{exc or type(exc).__name__}; trying again in {delay:g} s")
        return delay

    async def _keep(self) -> float:
        if self._restart:
            self._restart = False
            await self._set(Phase.STOPPING, "restarting as asked")
            await self._control.stop()
            self._link = None
        if self._link is not None and await self._alive(self._link):
            return self._look_every
        if self._link is not None:
            log.warning("the sidecar (pid %d) is gone", self._link.pid)
            if self._clock() - self._since > _STABLE_AFTER:
                self._failures = 0
            self._link = None
        await self._set(Phase.STARTING, "a capability is on the built-in provider")
        link = await self._control.ensure()
        self._link, self._since, self._misses = link, self._clock(), 0
        self._starts += 1
        await self._set(Phase.RUNNING, f"serving on {link.url}")
        try:
            await self._learn(link)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as exc:
            log.warning("the sidecar's models can't be listed yet: %s", exc)
        else:
            self._failures = 0
        return self._look_every

    async def _leave(self) -> float | None:
        self._restart = False
        if self._link is None:
            await self._set(Phase.OFF, "no capability is on the built-in provider")
            return None
        quiet = self._stop_delay - (self._clock() - self._last_trigger)
        if quiet > 0:
            await self._set(Phase.STOPPING, "no capability is on the built-in provider any more")
            return quiet
        await self._control.stop()
        self._link = None
        await self._set(Phase.OFF, "stopped: no capability is on the built-in provider")
        return None

    async def _alive(self, link: Link) -> bool:
        if self._phase is not Phase.RUNNING:
            await self._set(Phase.RUNNING, f"serving on {link.url}")
        try:
            async with outgoing.client(link.url, key=None, timeout=5.0) as http:
                answer = await http.get("/health")
            document = answer.json()
        except httpx.TimeoutException:
            self._misses += 1
            return self._misses < _MISSES
        except (httpx.HTTPError, ValueError):
            return False
        self._misses = 0
        leaving = document.get("status") in ("draining", "failed")
        return document.get("instance_id") == link.instance_id and not leaving

    async def _learn(self, link: Link) -> None:
        async with outgoing.client(link.api_url, key=link.token, timeout=30.0) as http:
            answer = await http.get("/models")
            answer.raise_for_status()
            models = {m["id"]: m.get("capabilities", []) for m in answer.json()["data"]}
        await asyncio.to_thread(self._store.sync_models, BUILTIN, models)
        given = await asyncio.to_thread(self._store.seed_rest, models)
        if given:
            log.info("the starter models now serve %s", ", ".join(given))
