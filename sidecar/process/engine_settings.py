"""The server's settings as plain data, for the engine process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sidecar.config import Settings


def plain(settings: Settings) -> dict[str, Any]:
    """Return settings as data for another process."""
    out: dict[str, Any] = {}
    for f in fields(settings):
        value = getattr(settings, f.name)
        if isinstance(value, Path):
            value = str(value)
        elif isinstance(value, tuple):
            value = [str(one) for one in value]
        out[f.name] = value
    return out


def settings_of(document: Mapping[str, Any]) -> Settings:
    """Return the settings that ``plain`` made data of."""
    values: dict[str, Any] = {}
    for f in fields(Settings):
        value = document[f.name]
        if "Path" in str(f.type) and value is not None:
            value = tuple(map(Path, value)) if isinstance(value, list) else Path(value)
        values[f.name] = tuple(value) if isinstance(value, list) else value
    return Settings(**values)
