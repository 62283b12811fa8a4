"""Which models are in memory: loaded on demand, one of a kind at a time, never taken from a running request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from sidecar.engine import Engine

if TYPE_CHECKING:
    from sidecar.loader import LoadedModel

_HEADROOM = 1.3  # memory of a model while it loads, in sizes of its files


@dataclass(eq=False)
class _Resident:
    name: str
    model: LoadedModel
    uses: int = 0


@dataclass(frozen=True)
class _Loading:
    name: str
    kind: str
    path: Path


class Residency:
    """Loads, counts uses, swaps. On the event loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = asyncio.Condition()
        self._resident: dict[Path, _Resident] = {}
        self._loading: _Loading | None = None
        self.error: str | None = None

    @property
    def loading(self) -> str | None:
        """Name of the model being loaded."""
        return None if self._loading is None else self._loading.name

    def names(self, kind: str | None = None) -> list[str]:
        """Names of the models in memory, of one kind or all."""
        return [r.name for r in self._resident.values() if kind in (None, r.model.kind)]

    def uses(self, path: Path) -> int:
        """Requests that use the model at ``path`` now; one more while it loads."""
        entry = self._resident.get(path)
        loading = self._loading is not None and self._loading.path == path
        return (entry.uses if entry is not None else 0) + loading

    async def forget(self, path: Path) -> None:
        """Unload the model at ``path`` if it is in memory; it must not be in use."""
        if path in self._resident:
            await self._unload([path])

    @asynccontextmanager
    async def use(self, name: str, path: Path, kind: str) -> AsyncIterator[LoadedModel]:
        """The loaded model at ``path`` ("chat" or "embedding"), kept in memory for as long as the block runs.

        Raises ``loader.LoadError``; the model loaded before stays usable.
        """
        entry = await self._acquire(name, path, kind)
        try:
            yield entry.model
        finally:
            entry.uses -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _acquire(self, name: str, path: Path, kind: str) -> _Resident:
        async with self._changed:
            while True:
                entry = self._resident.get(path)
                if entry is not None and (self._loading is None or self._loading.kind != kind):
                    entry.uses += 1
                    return entry
                if self._loading is None:
                    break
                await self._changed.wait()
            self._loading = _Loading(name, kind, path)
        try:
            entry = await self._load(name, path, kind)
            entry.uses += 1
            self.error = None
            return entry
        except Exception as exc:
            self.error = str(exc)
            raise
        finally:
            self._loading = None
            async with self._changed:
                self._changed.notify_all()

    async def _load(self, name: str, path: Path, kind: str) -> _Resident:
        """Look at the files, wait until nobody uses what must go, load, and only then let the old one go.

        Where both don't fit side by side the old one goes first.
        """
        size = await asyncio.to_thread(_checked_size, path)
        old = [p for p, r in self._resident.items() if r.model.kind == kind]
        async with self._changed:
            await self._changed.wait_for(lambda: all(self._resident[p].uses == 0 for p in old))
        together = size * _HEADROOM < psutil.virtual_memory().available
        if not together:
            await self._unload(old)
        model = await asyncio.wrap_future(self._engine.load(path))
        await self._unload([p for p in old if p in self._resident])
        entry = _Resident(name, model)
        self._resident[path] = entry
        return entry

    async def _unload(self, paths: list[Path]) -> None:
        for path in paths:
            del self._resident[path]
            await asyncio.wrap_future(self._engine.unload(path))


def _checked_size(path: Path) -> int:
    """Bytes of a model's weights, its files looked at. Raises ``loader.LoadError``."""
    from sidecar import loader

    loader.read_config(path)
    files = sorted(path.glob("*.safetensors"))
    for file in files:
        loader.check_safetensors(file)
    return sum(file.stat().st_size for file in files)
