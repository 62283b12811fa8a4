"""Putting files in place and taking folders away so that a reader never meets half of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all. Raises OSError."""
    spare = path.with_name(f".{path.name}.{os.getpid()}")
    spare.write_text(text, "utf-8")
    spare.replace(path)


def remove_tree(path: Path) -> None:
    """Delete a folder, first out of sight; of a link to one, the link. Raises OSError."""
    grave = path.with_name(f".{path.name}.{os.getpid()}.removed")
    path.rename(grave)
    if grave.is_symlink():
        grave.unlink()
    else:
        shutil.rmtree(grave)
