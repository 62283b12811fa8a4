"""From a model's name to its folder on this machine, and away from it. Nothing is downloaded here."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from host_api.protocol.folders import Folders
from sidecar.config import Settings
from sidecar.models import aliases, starter
from sidecar.models.downloads import HUB_ID
from sidecar.models.downloads.store import Store, default_cache
from sidecar.models.files import remove_tree

log = logging.getLogger("sidecar.server")


class ModelNotFound(Exception):
    """No such model here; the message says how to get it."""


@dataclass(frozen=True)
class CatalogueEntry:
    """A model known by an alias. ``size_gb`` is approximate.

    ``checked_as``: the family of docs/reference/families.md whose tiny model stands for it, "" for none.
    """

    alias: str
    hub_id: str | None
    title: str
    capabilities: tuple[str, ...]
    size_gb: float
    context: int
    license: str
    good_at: str
    min_memory_gb: float = 0.0  # of the machine, to be of use beside other programs
    checked_as: str = ""
    path: Path | None = None  # of a user's own alias for a folder


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine: the name it is asked by, with its profile, and its folder."""

    name: str
    path: Path
    entry: CatalogueEntry | None = None
    created: int = 0
    profile: str = ""


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """The built-in table, by alias."""
    document = json.loads(Path(__file__).with_name("catalogue.json").read_text("utf-8"))
    entries = (CatalogueEntry(**{**m, "capabilities": tuple(m["capabilities"])}) for m in document["models"])
    return {e.alias: e for e in entries}


class Registry:
    """Names and folders for one server's settings."""

    def __init__(self, settings: Settings, *, lent: Callable[[], Folders] = Folders) -> None:
        """``lent`` gives the folders that hosts lend just now; nothing in them is ever changed."""
        self._settings = settings
        self._lent = lent
        self.problem: str | None = None  # with the user's aliases

    @property
    def cache(self) -> Path:
        """The model hub's cache folder."""
        return self._settings.cache_dir or default_cache()

    def resolve(self, name: str) -> LocalModel:
        """The local model called ``name``: an alias, a hub id, an imported one or a folder under --model-dir.

        Raises ModelNotFound.
        """
        if entry := self.entries().get(name):
            path = self._place(entry)
            if path is None:
                raise ModelNotFound(f"The model {name!r} is not on this machine. {_advice(entry)}")
            return LocalModel(name, path, entry, _created(path))
        if HUB_ID.fullmatch(name):
            path = Store(self.cache, name).snapshot()
            if path is None:
                raise ModelNotFound(
                    f"The model {name!r} is not on this machine. Fetch it with: mlx-sidecar pull {name}"
                )
            known = next((e for e in self.entries().values() if e.hub_id == name), None)
            return LocalModel(name, path, known, _created(path))
        if path := self._listed(name):
            return LocalModel(path.name, path, None, _created(path))
        near = difflib.get_close_matches(name, [m.name for m in self.available()] + list(self.entries()), 1)
        hint = f" Did you mean {near[0]!r}?" if near else " GET /v1/models lists what is here."
        raise ModelNotFound(f"There is no model {name!r}.{hint}")

    def entries(self) -> dict[str, CatalogueEntry]:
        """The catalogue with the user's own aliases, by alias; the user's win."""
        own, problem = aliases.read(self._settings.data_dir / aliases.FILE)
        if problem and problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem
        return catalogue() | {name: _own_entry(name, target) for name, target in own.items()}

    def available(self) -> list[LocalModel]:
        """Every model on this machine, aliases first."""
        found: dict[str, LocalModel] = {}
        for alias, entry in self.entries().items():
            if (place := self._place(entry)) is not None:
                found[alias] = LocalModel(alias, place, entry, _created(place))
        named = {m.path for m in found.values()}
        for folder in self._folders():
            for path in _model_folders(folder):
                if path not in named:  # else an alias shows it already
                    found.setdefault(path.name, LocalModel(path.name, path, None, _created(path)))
        for repo in sorted(self.cache.glob("models--*--*")):
            hub_id = repo.name.removeprefix("models--").replace("--", "/", 1)
            if hub_id not in found and (snapshot := Store(self.cache, hub_id).snapshot()):
                found[hub_id] = LocalModel(hub_id, snapshot, None, _created(snapshot))
        for model in found.values():
            _size_once(model.path, model.created)  # here, in a thread: ``describe`` runs on the event loop
        return list(found.values())

    def hub_id(self, name: str) -> str:
        """The hub id a pull of ``name`` fetches. Raises ModelNotFound."""
        if entry := self.entries().get(name):
            if entry.hub_id is None:  # the starter model, or a folder
                raise ModelNotFound(f"{name!r} does not come from a hub. {_advice(entry)}")
            return entry.hub_id
        if HUB_ID.fullmatch(name):
            return name
        near = difflib.get_close_matches(name, list(self.entries()), 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ModelNotFound(f"{name!r} is neither an alias nor a hub id such as owner/name.{hint}")

    def smaller(self, available: int, *, than: LocalModel) -> CatalogueEntry | None:
        """The largest model of the catalogue that fits into so many bytes, can what ``than`` can, and is smaller."""
        wanted = set(than.entry.capabilities if than.entry is not None else ()) or {"text"}
        fits = [e for e in catalogue().values() if e.size_gb * 1.2e9 < available and wanted <= set(e.capabilities)]
        if than.entry is not None and than.entry.size_gb:
            fits = [e for e in fits if e.size_gb < than.entry.size_gb]
        return max((e for e in fits if e.alias != than.name), key=lambda e: e.size_gb, default=None)

    def remove(self, name: str) -> int:
        """Delete a model from this machine; the bytes freed. Raises ModelNotFound, OSError."""
        entry = self.entries().get(name)
        if entry is not None and entry.hub_id is None and entry.path is None:
            size = _size(starter.folder(self._settings.data_dir))
            if not starter.remove(self._settings.data_dir):
                if place := self._place(entry):
                    raise ModelNotFound(
                        f"{name!r} is the folder {place} of another program; it goes with that program."
                    )
                raise ModelNotFound("The starter model is not installed.")
            return size
        hub_id = entry.hub_id if entry is not None else name
        if hub_id is not None and HUB_ID.fullmatch(hub_id):
            store = Store(self.cache, hub_id)
            if not store.root.exists():
                raise ModelNotFound(f"The model {name!r} is not on this machine.")
            return store.remove()
        path = self.resolve(name).path
        if path.parent != self.imported:
            if path.parent in self._folders()[len(self._settings.model_dir) + 1 :]:
                raise ModelNotFound(f"{name!r} is the folder {path} of another program; it goes with that program.")
            raise ModelNotFound(f"{name!r} is the folder {path}, which you named yourself; delete it by hand.")
        size = _size(path)
        remove_tree(path)
        return size

    @property
    def imported(self) -> Path:
        """The folder of imported models."""
        return self._settings.data_dir / "models"

    def _folders(self) -> tuple[Path, ...]:
        """Return all folders with models: the settings', the imported ones', then those lent."""
        lent = self._lent()
        return (*self._settings.model_dir, self.imported, *lent.model_dirs, *(d / "models" for d in lent.data_dirs))

    def _place(self, entry: CatalogueEntry) -> Path | None:
        if entry.path is not None:
            return entry.path if (entry.path / "config.json").is_file() else None
        if entry.hub_id is None:
            places = (starter.installed(d) for d in (self._settings.data_dir, *self._lent().data_dirs))
            return next(filter(None, places), None)
        path = Store(self.cache, entry.hub_id).snapshot()
        return path or self._in_dirs(entry.hub_id.rpartition("/")[2]) or self._in_dirs(entry.alias)

    def _listed(self, name: str) -> Path | None:
        """Return the folder that is listed by a name, whatever stands in it; accents in either of Unicode's forms."""
        wanted = unicodedata.normalize("NFC", name)
        folders = (path for folder in self._folders() for path in _model_folders(folder))
        return next((path for path in folders if unicodedata.normalize("NFC", path.name) == wanted), None)

    def _in_dirs(self, name: str) -> Path | None:
        if name == starter.NAME:
            return None  # its folder may be of an older format
        for folder in self._folders():
            if (folder / name / "config.json").is_file():
                return folder / name
        return None


def _own_entry(alias: str, target: str) -> CatalogueEntry:
    """A user's alias; for a model of the catalogue, with what is known of it."""
    known = next((e for e in catalogue().values() if target in (e.hub_id, e.alias)), None)
    if known is not None:
        return replace(known, alias=alias)
    path = Path(target).expanduser() if target.startswith(("/", "~")) else None
    return CatalogueEntry(
        alias=alias,
        hub_id=None if path else target,
        title=alias,
        capabilities=(),
        size_gb=0.0,
        context=0,
        license="",
        good_at="",
        path=path,
    )


def recommended(memory_bytes: int) -> list[tuple[CatalogueEntry, bool]]:
    """The catalogue, the smallest first, and whether each fits a machine with so much memory. Pure."""
    entries = sorted(catalogue().values(), key=lambda e: e.size_gb)
    return [(e, e.min_memory_gb * 1e9 <= memory_bytes * 1.08) for e in entries]  # 16 GB are sold as 16 GiB and less


def offers(memory_bytes: int, here: frozenset[str]) -> list[dict[str, Any]]:
    """The catalogue as documents: what suits a machine with so much memory, and what is ``here``. Pure."""
    choice = best(memory_bytes)
    found = []
    for entry, fits in recommended(memory_bytes):
        document = {k: v for k, v in asdict(entry).items() if k != "path"}
        found.append(document | {"fits": fits, "recommended": entry == choice, "installed": entry.alias in here})
    return found


def best(memory_bytes: int) -> CatalogueEntry | None:
    """The chat model to take on a machine with so much memory: one that can all, and leaves half of it to others."""
    able = {"text", "vision", "tool_use"}
    fits = [e for e, ok in recommended(memory_bytes) if ok and able <= set(e.capabilities)]
    fits = [e for e in fits if e.size_gb * 2e9 <= memory_bytes]
    return max(fits, key=lambda e: e.size_gb, default=None)


def _advice(entry: CatalogueEntry) -> str:
    if entry.path is not None:
        return f"Its folder {entry.path} has no config.json; see {aliases.FILE}."
    size = f" (about {entry.size_gb:g} GB)" if entry.size_gb else ""
    if entry.hub_id is None:
        return "Install it with: mlx-sidecar starter install"
    return f"Fetch it{size} with: mlx-sidecar pull {entry.alias}"


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@lru_cache(maxsize=512)
def _size_once(folder: Path, created: int) -> int:
    """Return the bytes of a model's files; they are looked at again when its ``created`` is another."""
    with contextlib.suppress(OSError):
        return _size(folder)
    return 0


def _model_folders(folder: Path) -> Iterator[Path]:
    try:
        found = (p for p in folder.iterdir() if not p.name.startswith(".") and p.name != starter.NAME)
        yield from sorted(p for p in found if (p / "config.json").is_file())
    except OSError:
        return


def _created(path: Path) -> int:
    try:
        return int((path / "config.json").stat().st_mtime)
    except OSError:
        return 0


def describe(model: LocalModel) -> dict[str, Any]:
    """The /v1/models document of one model."""
    document: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "local",
        "size_bytes": _size_once(model.path, model.created),
    }
    if model.entry is not None and model.entry.capabilities:
        document |= {
            "title": model.entry.title,
            "capabilities": list(model.entry.capabilities),
            "context_length": model.entry.context,
            "license": model.entry.license,
            "size_gb": model.entry.size_gb,
        }
    return document
