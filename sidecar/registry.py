"""From a model's name to its folder on this machine. Nothing is downloaded here."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sidecar import starter
from sidecar.config import Settings

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*")


class ModelNotFound(Exception):
    """No such model here; the message says how to get it."""


@dataclass(frozen=True)
class CatalogueEntry:
    """A model known by an alias. ``size_gb`` is approximate."""

    alias: str
    hub_id: str | None
    title: str
    capabilities: tuple[str, ...]
    size_gb: float
    context: int
    license: str
    good_at: str


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine: the name it is asked by and its folder."""

    name: str
    path: Path
    entry: CatalogueEntry | None = None
    created: int = 0


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """The built-in table, by alias."""
    document = json.loads(Path(__file__).with_name("catalogue.json").read_text("utf-8"))
    entries = (CatalogueEntry(**{**m, "capabilities": tuple(m["capabilities"])}) for m in document["models"])
    return {e.alias: e for e in entries}


def hub_cache() -> Path:
    """The model hub's standard cache folder."""
    if path := os.environ.get("HF_HUB_CACHE"):
        return Path(path).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


class Registry:
    """Names and folders for one server's settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def resolve(self, name: str) -> LocalModel:
        """The local model called ``name``: an alias, a hub id or a folder under --model-dir.

        Raises ModelNotFound.
        """
        if entry := catalogue().get(name):
            path = starter.installed(self._settings.data_dir) if entry.hub_id is None else _in_cache(entry.hub_id)
            if path is None and entry.hub_id is not None:
                path = self._in_dirs(entry.hub_id.rpartition("/")[2])
            if path is None:
                raise ModelNotFound(f"The model {name!r} is not on this machine. {self._advice(entry)}")
            return LocalModel(name, path, entry, _created(path))
        if _HUB_ID.fullmatch(name):
            path = _in_cache(name)
            if path is None:
                raise ModelNotFound(f"The model {name!r} is not in the local cache. Fetch it with: hf download {name}")
            known = next((e for e in catalogue().values() if e.hub_id == name), None)
            return LocalModel(name, path, known, _created(path))
        if _NAME.fullmatch(name) and (path := self._in_dirs(name)):
            return LocalModel(name, path, None, _created(path))
        near = difflib.get_close_matches(name, [m.name for m in self.available()] + list(catalogue()), 1)
        hint = f" Did you mean {near[0]!r}?" if near else " GET /v1/models lists what is here."
        raise ModelNotFound(f"There is no model {name!r}.{hint}")

    def available(self) -> list[LocalModel]:
        """Every model on this machine, aliases first."""
        found: dict[str, LocalModel] = {}
        for alias in catalogue():
            try:
                found[alias] = self.resolve(alias)
            except ModelNotFound:
                continue
        for folder in self._settings.model_dir:
            for path in _model_folders(folder):
                found.setdefault(path.name, LocalModel(path.name, path, None, _created(path)))
        for repo in sorted(hub_cache().glob("models--*--*")):
            hub_id = repo.name.removeprefix("models--").replace("--", "/", 1)
            if hub_id not in found and (snapshot := _in_cache(hub_id)):
                found[hub_id] = LocalModel(hub_id, snapshot, None, _created(snapshot))
        return list(found.values())

    def _in_dirs(self, name: str) -> Path | None:
        for folder in (*self._settings.model_dir, self._settings.data_dir / "models"):
            if name != starter.NAME and (folder / name / "config.json").is_file():
                return folder / name
        return None

    def _advice(self, entry: CatalogueEntry) -> str:
        if entry.hub_id is None:
            return "Install it with: mlx-sidecar starter install"
        return f"Fetch it ({entry.size_gb:g} GB) with: hf download {entry.hub_id}"


def _model_folders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(p for p in folder.iterdir() if (p / "config.json").is_file())
    except OSError:
        return


def _in_cache(hub_id: str) -> Path | None:
    """The cached snapshot of a hub id that has a configuration and all its weights, or None."""
    repo = hub_cache() / ("models--" + hub_id.replace("/", "--"))
    try:
        revision = (repo / "refs" / "main").read_text("utf-8").strip()
    except OSError:
        return None
    snapshot = repo / "snapshots" / revision
    if not (snapshot / "config.json").exists() or not any(snapshot.glob("*.safetensors")):
        return None
    index = snapshot / "model.safetensors.index.json"
    if index.exists():
        try:
            names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            return None
        if any(not (snapshot / name).exists() for name in names):
            return None
    return snapshot


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
    }
    if model.entry is not None:
        document |= {
            "title": model.entry.title,
            "capabilities": list(model.entry.capabilities),
            "context_length": model.entry.context,
            "license": model.entry.license,
            "size_gb": model.entry.size_gb,
        }
    return document
