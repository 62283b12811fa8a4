"""Which models are in memory: loaded on demand, one at a time, never taken from a running request.

At most ``max_chat`` chat models and one embedding model stay; the least recently used one makes room, after what
runs on it has ended. One that nobody used for its keep-alive time goes by itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.engine import memory
from sidecar.engine.client import EngineClient
from sidecar.engine.memory import Estimate
from sidecar.engine.messages import ModelInfo


class NotEnoughMemory(Exception):
    """A model that would not fit. ``available``: bytes it could have had."""

    def __init__(self, name: str, need: Estimate, available: int) -> None:
        super().__init__(name)
        self.need = need
        self.available = available


class InUse(Exception):
    """The model serves requests now."""


@dataclass(eq=False, kw_only=True)
class _Resident:
    name: str
    path: Path
    model: ModelInfo
    size: int
    keep_alive: float
    last_used: float
    uses: int = 0
    promised: int = 0  # requests that waited for this load and are served before it can go
    leaving: bool = False


@dataclass(frozen=True)
class _Change:
    """The one load or unload going on."""

    name: str
    path: Path
    loading: bool
    task: asyncio.Task[None] | None = None


class Residency:
    """Loads, counts uses, swaps, lets go. On the event loop's thread. ``keep_alive`` in seconds."""

    def __init__(
        self,
        engine: EngineClient,
        *,
        max_chat: int = 1,
        keep_alive: float = math.inf,
        room: Callable[[int], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``room``: bytes a further model may take beside models of so many bytes; None: no check."""
        self._engine = engine
        self._most = {"chat": max_chat, "embedding": 1}
        self._keep_alive = keep_alive
        self._room = room
        self._clock = clock
        self._news = asyncio.Event()  # set, and replaced, at every change
        self._resident: dict[Path, _Resident] = {}
        self._waiting: Counter[Path] = Counter()
        self._change: _Change | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.error: str | None = None

    # --- what is there -------------------------------------------------------------------------------
    @property
    def loading(self) -> str | None:
        """Name of the model being loaded."""
        return self._change.name if self._change is not None and self._change.loading else None

    def names(self, kind: str | None = None) -> list[str]:
        """Names of the models in memory, of one kind or all; the one used last comes first."""
        found = sorted(self._resident.values(), key=lambda r: -r.last_used)
        return [r.name for r in found if kind in (None, r.model.kind)]

    def state(self, path: Path) -> dict[str, Any]:
        """What a model's document says of its place in memory."""
        entry = self._resident.get(path)
        loading = self._change is not None and self._change.loading and self._change.path == path
        document: dict[str, Any] = {
            "loaded": entry is not None,
            "load_progress": self._engine.pulse.load_progress if loading else None,
        }
        if entry is not None:
            left = entry.last_used + entry.keep_alive - self._clock()
            document |= {"requests": entry.uses, "bytes": entry.size}
            if entry.model.can:
                document["can"] = dict(entry.model.can)
            document["unloads_in"] = None if entry.uses or math.isinf(left) else max(0.0, round(left, 1))
        return document

    # --- use -----------------------------------------------------------------------------------------
    @asynccontextmanager
    async def use(
        self, name: str, path: Path, kind: str, *, keep_alive: float | None = None
    ) -> AsyncIterator[ModelInfo]:
        """The loaded model at ``path`` ("chat" or "embedding"), kept in memory for as long as the block runs.

        Raises ``LoadError`` or NotEnoughMemory; models loaded before stay usable.
        """
        entry = await self._acquire(name, path, kind)
        if keep_alive is not None:  # else the time an earlier request gave goes on
            entry.keep_alive = keep_alive
        try:
            yield entry.model
        finally:
            entry.uses -= 1
            entry.last_used = self._clock()
            self._notify()

    async def _acquire(self, name: str, path: Path, kind: str) -> _Resident:
        self._waiting[path] += 1
        try:
            while True:
                entry = self._resident.get(path)
                if entry is not None and (not entry.leaving or entry.promised):
                    entry.promised = max(0, entry.promised - 1)
                    entry.uses += 1
                    return entry
                if self._change is None:
                    # A task of its own: who asked may leave, and the engine has the model all the same.
                    task = asyncio.create_task(self._load_and_settle(name, path, kind))
                    self._change = _Change(name, path, True, task)
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                    task.add_done_callback(lambda t: t.cancelled() or t.exception())
                if self._change.path == path and self._change.task is not None:
                    await asyncio.shield(self._change.task)  # all who wait for this load share its failure
                else:
                    await self._news.wait()
        finally:
            self._waiting[path] -= 1
            self._notify()

    async def _load_and_settle(self, name: str, path: Path, kind: str) -> None:
        try:
            entry = await self._load(name, path, kind)
            entry.promised = self._waiting[path]
            self.error = None
        except NotEnoughMemory:
            raise
        except Exception as exc:
            self.error = str(exc)
            raise
        finally:
            self._done()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _done(self) -> None:
        self._change = None
        self._notify()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._news.wait()

    async def _load(self, name: str, path: Path, kind: str) -> _Resident:
        """Look at the files, find room, wait until nobody uses what must go, load, and then let the old one go.

        Where both don't fit side by side the old one goes first.
        """
        self._engine.failed_loads.check(str(path))  # before anything makes room for it
        size, need = await asyncio.to_thread(_need, path)
        going = self._victims(kind)
        try:
            together = self._make_room(name, need, going)
            for entry in going:
                entry.leaving = True
            await self._until(lambda: all(self._drained(e) for e in going))
            if not together:
                await self._let_go(going)
            model = await self._engine.load(path)
            await self._let_go(going)
        finally:
            for entry in going:
                entry.leaving = False
        made = _Resident(
            name=name, path=path, model=model, size=size, keep_alive=self._keep_alive, last_used=self._clock()
        )
        self._resident[path] = made
        return made

    def _victims(self, kind: str) -> list[_Resident]:
        """Who makes room for one more of a kind: idle ones first, then the least recently used."""
        same = [r for r in self._resident.values() if r.model.kind == kind]
        same.sort(key=lambda r: (r.uses > 0, r.last_used))
        return same[: max(0, len(same) - self._most[kind] + 1)]

    def _make_room(self, name: str, need: Estimate, going: list[_Resident]) -> bool:
        """Whether the model fits beside those that go; adds idle ones to ``going`` where that helps.

        Raises NotEnoughMemory when it would not fit even then.
        """
        if self._room is None:
            return False
        held = sum(r.size for r in self._resident.values())
        room = self._room(held)
        if need.total <= room:
            return True
        freed = sum(r.size for r in going)
        idle = sorted(
            (r for r in self._resident.values() if r not in going and self._drained(r)), key=lambda r: r.last_used
        )
        while need.total > room + freed and idle:
            going.append(idle.pop(0))
            freed += going[-1].size
        if need.total > room + freed:
            raise NotEnoughMemory(name, need, room + freed)
        return False

    def _drained(self, entry: _Resident) -> bool:
        return entry.uses == 0 and min(entry.promised, self._waiting[entry.path]) == 0

    async def _let_go(self, entries: list[_Resident]) -> None:
        """Unload; first out of the table, so that nobody begins to use one meanwhile."""
        paths = [e.path for e in entries if self._resident.pop(e.path, None) is not None]
        for entry in entries:
            del entry.model  # the last hold on its memory here
        entries.clear()
        for path in paths:
            await self._engine.unload(path)

    # --- letting go ----------------------------------------------------------------------------------
    async def unload(self, path: Path) -> bool:
        """Let what runs on the model end, then give its memory back; whether it was in memory."""
        await self._until(lambda: self._change is None)
        entry = self._resident.get(path)
        if entry is None:
            return False
        self._change = _Change(entry.name, path, False)
        try:
            entry.leaving = True
            await self._until(lambda: self._drained(entry))
            await self._let_go([entry])
        finally:
            entry.leaving = False
            self._done()
        return True

    async def remove(self, path: Path, delete: Callable[[], int]) -> int:
        """Unload an idle model and ``delete`` its files, with no load meanwhile. Raises InUse."""
        if self._change is not None and self._change.path == path:
            raise InUse
        await self._until(lambda: self._change is None)
        entry = self._resident.get(path)
        if entry is not None and not self._drained(entry):
            raise InUse
        self._change = _Change(path.name, path, False)
        try:
            if entry is not None:
                await self._let_go([entry])
            return await asyncio.to_thread(delete)
        finally:
            self._done()

    def lost(self, path: Path) -> None:
        """Forget a model that went with its engine and could not be loaded again; what used it was told."""
        if self._resident.pop(path, None) is not None:
            self._notify()

    async def sweep(self) -> list[str]:
        """Let idle models whose time is over go; their names. Does nothing while a load is going on."""
        now = self._clock()
        over = [r for r in self._resident.values() if self._drained(r) and r.last_used + r.keep_alive <= now]
        return await self._let_idle_go(over)

    async def shed(self) -> list[str]:
        """Let the idle model used least recently go, for want of memory; its name."""
        idle = sorted((r for r in self._resident.values() if self._drained(r)), key=lambda r: r.last_used)
        return await self._let_idle_go(idle[:1])

    async def _let_idle_go(self, entries: list[_Resident]) -> list[str]:
        if not entries or self._change is not None:
            return []
        self._change = _Change(entries[0].name, entries[0].path, False)
        names = [e.name for e in entries]
        try:
            await self._let_go(entries)
        finally:
            self._done()
        return names


def _need(path: Path) -> tuple[int, Estimate]:
    """Bytes of a model's weights, its files looked at, and what it will take. Raises ``LoadError``."""
    from sidecar.backend import loader

    config = loader.read_config(path)
    files = sorted(path.glob("*.safetensors"))
    for file in files:
        loader.check_safetensors(file)
    size = sum(file.stat().st_size for file in files)
    return size, memory.estimate(config, size, context=loader.context_length(config))
