"""Keeps the sidecar's process as the assignments want it: one loop, so that rapid changes coalesce.

Theory of operation. Whether a sidecar is wanted follows from the assignments; whether it lives is the business of
``host_api``'s watcher, which sees a crash or a hang, waits its back-off and starts another. This loop starts the first
one, takes over the link of each that the watcher started, and stops the last one. Starting is immediate; stopping waits
until nothing changed for ``stop_delay``, so that a burst of changes never stops what its last one needs.

A worked timeline, ``stop_delay`` 1 s: 0.0 s text is assigned to the built-in model → ensure, 0.4 s running. 10.0 s the
process is killed → the watcher says crashed, waits, starts another, says restarted → 11.2 s this loop has the new link;
requests of between waited for it. 20.0 s text goes elsewhere, 20.4 s back again: nothing was stopped. 30.0 s it goes
elsewhere for good → 31.0 s stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
AGAIN = 2.0  # seconds between starts that fail; process control waits its own back-off besides
AGAIN_PERMANENT = 5.0  # the same, of failures that somebody has to mend


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
    def current(self) -> Link | None: ...
    async def stop(self) -> bool: ...
    async def release(self) -> None: ...
    async def close(self) -> None: ...
    def events(self) -> list[dict[str, Any]]: ...
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
        """Return it as JSON."""
        return asdict(self)


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
        self._starts = 0
        self._wanted = False
        self._phase = Phase.OFF
        self._detail = "no capability is on the built-in provider"
        self._restart: asyncio.Future[bool] | None = None
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
        self._wake.set()

    async def restart(self) -> None:
        """Stop the sidecar and start it again, when it is wanted. Raises a 409 when others use it."""
        if self._restart is None:
            self._restart = asyncio.get_running_loop().create_future()
        asked = self._restart
        self.trigger()
        if not await asyncio.shield(asked):
            message = "Other programs use the sidecar: it was not restarted. Close them first; GET /status says more."
            raise ApiError(409, message, code="in_use")

    def events(self) -> list[dict[str, Any]]:
        """Return what happened to the sidecar's process, the newest last."""
        return self._control.events()

    @property
    def wanted(self) -> bool:
        """Whether any capability is on the built-in provider."""
        return self._wanted

    @property
    def key(self) -> str | None:
        """Return the running sidecar's key; never logged, never sent to clients."""
        return self._link.token if self._link is not None else None

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
        delay = AGAIN_PERMANENT if getattr(exc, "permanent", False) else AGAIN
        self._link = None
        self._restarted(True)
        await self._set(Phase.FAILED, f"{exc or type(exc).__name__}; trying again in {delay:g} s")
        return delay

    def _restarted(self, done: bool) -> None:
        """Tell who asked for a restart."""
        asked, self._restart = self._restart, None
        if asked is not None and not asked.done():
            asked.set_result(done)

    async def _keep(self) -> float:
        if self._restart is not None and self._link is not None:
            await self._set(Phase.STOPPING, "restarting as asked")
            if await self._control.stop():
                self._link = None
            else:
                self._restarted(False)
                await self._set(Phase.RUNNING, f"serving on {self._link.url}; not restarted: others use it")
        now = self._control.current()
        if self._link is not None and now == self._link:
            if self._phase is not Phase.RUNNING:
                await self._set(Phase.RUNNING, f"serving on {now.url}")
            return self._look_every
        if self._link is not None:
            log.warning("the sidecar (pid %d) is gone", self._link.pid)
            self._link = None
        if now is None:
            await self._set(Phase.STARTING, "a capability is on the built-in provider")
        link = now or await self._control.ensure()
        self._link = link
        self._starts += 1
        self._restarted(True)
        await self._set(Phase.RUNNING, f"serving on {link.url}")
        try:
            await self._learn(link)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as exc:
            log.warning("the sidecar's models can't be listed yet: %s", exc)
        return self._look_every

    async def _leave(self) -> float | None:
        self._restarted(True)
        if self._phase is Phase.OFF:
            return None
        quiet = self._stop_delay - (self._clock() - self._last_trigger)
        if quiet > 0 and self._link is not None:
            await self._set(Phase.STOPPING, "no capability is on the built-in provider any more")
            return quiet
        # Also without a link: after a failure the watcher may still be starting one.
        if not await self._control.stop():
            await self._control.release()
        self._link = None
        await self._set(Phase.OFF, "stopped: no capability is on the built-in provider")
        return None

    async def _learn(self, link: Link) -> None:
        async with outgoing.client(link.api_url, key=link.token, timeout=30.0) as http:
            answer = await http.get("/models")
            answer.raise_for_status()
            models = {m["id"]: m.get("capabilities", []) for m in answer.json()["data"]}
        await asyncio.to_thread(self._store.sync_models, BUILTIN, models)
        given = await asyncio.to_thread(self._store.seed_rest, models)
        if given:
            log.info("the starter models now serve %s", ", ".join(given))
