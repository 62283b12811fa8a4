"""A listener's client of an engine that runs in the test's own process."""

from __future__ import annotations

from sidecar.config import Settings
from sidecar.engine.client import EngineClient
from sidecar.engine.metrics import Meter
from sidecar.engine.thread import EngineThread
from sidecar.process.engine import LocalEngine


class LocalClient(EngineClient):
    """Its engine's ``thread`` can be looked at. ``deaths``: what ended it."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.deaths: list[BaseException] = []
        self._engine: LocalEngine | None = None

        def connect(emit):  # type: ignore[no-untyped-def]
            self._engine = LocalEngine(settings or Settings(), Meter(), emit, self.deaths.append)
            return self._engine

        super().__init__(connect)

    @property
    def thread(self) -> EngineThread:
        """The engine's thread; there is one after the first request."""
        assert self._engine is not None
        return self._engine.thread
