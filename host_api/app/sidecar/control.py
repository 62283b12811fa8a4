"""The one place where the host service meets process control."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from host_api.app.config import HostSettings
from host_api.app.models.gateway import Link
from host_api.config import HostConfig
from host_api.errors import InUse
from host_api.host import SidecarHost
from host_api.process import LaunchSpec


class SidecarControl:
    """Ensures, stops and lets go of the sidecar through ``host_api.host.SidecarHost``."""

    def __init__(self, settings: HostSettings) -> None:
        launch = LaunchSpec(port=settings.sidecar_port, grace_time=settings.grace_time)
        self._host = SidecarHost(HostConfig(state_dir=settings.state_dir, launch=launch))

    async def ensure(self) -> Link:
        """Start or attach; the link to the one sidecar of the state directory.

        Raises HostError or StateDirError.
        """
        found = await asyncio.to_thread(self._host.ensure_running)
        return Link(url=found.url, token=found.token, pid=found.pid, instance_id=found.instance_id)

    async def stop(self) -> None:
        """Stop the sidecar; one that another host uses is only let go of."""
        try:
            await asyncio.to_thread(self._host.stop)
        except InUse:
            await asyncio.to_thread(self._host.release)

    async def close(self) -> None:
        """Let go: a sidecar that nobody else uses leaves by itself after its grace time."""
        await asyncio.to_thread(self._host.release)

    def listen(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called on this event loop whenever something happened to the sidecar, until ``close``."""
        loop = asyncio.get_running_loop()
        events = self._host.events()

        def follow() -> None:
            for _ in events:
                with contextlib.suppress(RuntimeError):  # the loop is closed: so is the service
                    loop.call_soon_threadsafe(changed)

        threading.Thread(target=follow, name="sidecar-events", daemon=True).start()
