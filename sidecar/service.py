"""What the routes share: settings, the engine, who is being served, and the state shown by /health."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from sidecar import __version__
from sidecar.config import Settings


class Service:
    """One server's state. Lives on the event loop's thread."""

    def __init__(self, settings: Settings, *, instance_id: str) -> None:
        self.settings = settings
        self.instance_id = instance_id
        self.draining = False
        self._started = time.monotonic()
        self._active = 0

    def start(self) -> None:
        """Begin loading the start model, when there is one."""

    def close(self) -> None:
        """Stop the engine thread."""

    async def drain(self, timeout: float) -> None:
        """Refuse new requests and wait up to ``timeout`` seconds for those that run."""
        self.draining = True
        end = time.monotonic() + timeout
        while self._active and time.monotonic() < end:
            await asyncio.sleep(0.02)

    def health(self) -> dict[str, Any]:
        """The /health document."""
        return {
            "status": "draining" if self.draining else "ready",
            "instance_id": self.instance_id,
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 3),
            "model": None,
            "load_progress": None,
            "queue": {},
            "error": None,
        }
