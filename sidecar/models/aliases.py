"""The user's own names for models: ``aliases.toml`` in the data directory."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from sidecar.models.downloads import HUB_ID

FILE = "aliases.toml"
NAME = re.compile(r"[A-Za-z0-9][\w.\-]*")
"""What an alias or the folder of a model may be called."""


def read(path: Path) -> tuple[dict[str, str], str | None]:
    """Alias → hub id, alias of the catalogue or folder; and what is wrong with the file, in words.

    A broken file gives no aliases, a broken line loses its own.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}, None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        return {}, f"{path}: can't be read ({exc}); its aliases are left out"
    table = document.get("aliases")
    if not isinstance(table, dict):
        return {}, f"{path}: has no [aliases] table"
    good: dict[str, str] = {}
    problem = None
    for name, target in table.items():
        if not NAME.fullmatch(name) or name == "starter":
            problem = f"{path}: {name!r} can't be an alias (letters, digits, dot, dash; not starter)"
        elif not isinstance(target, str) or not (
            HUB_ID.fullmatch(target) or NAME.fullmatch(target) or target.startswith(("/", "~/"))
        ):
            problem = f"{path}: {name} = {target!r}: give a hub id (owner/name) or a folder (/… or ~/…)"
        else:
            good[name] = target
    return good, problem
