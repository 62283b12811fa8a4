"""The engine in this process: its thread, and the jobs that feed it."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.config import Settings
from sidecar.engine.messages import Pulse, Reply, Request
from sidecar.engine.metrics import Meter
from sidecar.engine.thread import EngineThread
from sidecar.text.jobs import Jobs


class LocalEngine:
    """A channel to an engine thread of this process."""

    def __init__(
        self, settings: Settings, meter: Meter, emit: Callable[[Reply], None], on_death: Callable[[BaseException], None]
    ) -> None:
        self.thread = EngineThread(settings, meter, on_death=on_death)
        self._jobs = Jobs(self.thread, settings, emit)

    def send(self, request: Request) -> None:
        """Hand over a request; never blocks."""
        self._jobs.take(request)

    def pulse(self) -> Pulse:
        """Return how the engine does."""
        return Pulse(load_progress=self.thread.load_progress, stalled=self.thread.stalled_for(), memory=_memory())

    def close(self) -> None:
        """End the thread; running requests end with an error. Blocking."""
        self.thread.stop()
        self._jobs.close()


def _memory() -> dict[str, int]:
    import sys

    if "mlx.core" not in sys.modules:
        return {}
    import mlx.core as mx

    return {"active": mx.get_active_memory(), "cache": mx.get_cache_memory(), "peak": mx.get_peak_memory()}
