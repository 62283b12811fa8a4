"""The one place where the host service meets process control."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from host_api.app.config import HostSettings
from host_api.app.models.gateway import Link
from host_api.config import HostConfig
from host_api.connection import Connection, Event
from host_api.errors import InUse
from host_api.host import SidecarHost
from host_api.process import LaunchSpec

KEPT = 20  # events shown


class SidecarControl:
    """Ensures, stops and lets go of the sidecar through ``host_api.host.SidecarHost``, whose watcher restarts it."""

    def __init__(self, settings: HostSettings) -> None:
        launch = LaunchSpec(port=settings.sidecar_port, grace_time=settings.grace_time)
        self._host = SidecarHost(HostConfig(state_dir=settings.state_dir, launch=launch))
        self._closed = threading.Event()
        self._events: deque[dict[str, Any]] = deque(maxlen=KEPT)

    async def ensure(self) -> Link:
        """Start or attach; return the link to the one sidecar of the state directory.

        Raises HostError or StateDirError.
        """
        return _link(await asyncio.to_thread(self._host.ensure_running))

    def current(self) -> Link | None:
        """Return the sidecar as the watcher saw it last; None when it ended and none was started in its place."""
        found = self._host.connection
        return _link(found) if found is not None else None

    async def stop(self) -> bool:
        """Stop the sidecar; False when other hosts use it: then nothing is changed."""
        try:
            await asyncio.to_thread(self._host.stop)
        except InUse:
            return False
        return True

    async def release(self) -> None:
        """Let go: a sidecar that nobody else uses leaves by itself after its grace time."""
        await asyncio.to_thread(self._host.release)

    async def close(self) -> None:
        """Let go for good."""
        self._closed.set()
        await self.release()

    def events(self) -> list[dict[str, Any]]:
        """Return what happened to the sidecar since this service started, the newest last."""
        return list(self._events)

    def listen(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called on this event loop whenever something happened to the sidecar, until ``close``."""
        loop = asyncio.get_running_loop()

        def follow() -> None:
            # A release ends the events; what is ensured after it has new ones.
            while not self._closed.is_set():
                for event in self._host.events():
                    self._remember(event)
                    with contextlib.suppress(RuntimeError):  # the loop is closed: so is the service
                        loop.call_soon_threadsafe(changed)

        threading.Thread(target=follow, name="sidecar-events", daemon=True).start()

    def _remember(self, event: Event) -> None:
        pid = event.connection.pid if event.connection else None
        self._events.append({"at": time.time(), "kind": event.kind, "detail": event.detail, "pid": pid})


def _link(found: Connection) -> Link:
    return Link(url=found.url, token=found.token, pid=found.pid, instance_id=found.instance_id)
