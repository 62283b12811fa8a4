"""Whether the frozen program is all there: an update that was cut short, a copy that ran out of disk, a cleaner's work.

The build leaves ``files.json`` beside its parts: every file and its size. Signing makes files larger, and copies turn
links into files, so that only what is missing or shorter counts. 800 looks take a few milliseconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LIST = "files.json"


def faults(folder: Path) -> list[str]:
    """Return the names of the files that ``folder`` lacks, or has only in part; none where there is no list."""
    try:
        files: dict[str, int] = json.loads((folder / LIST).read_text("utf-8"))
    except FileNotFoundError:
        return []  # a single file, which checks itself
    except (OSError, ValueError):
        return [LIST]
    return [name for name, size in files.items() if not _there(folder / name, size)]


def _there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size >= size
    except OSError:
        return False


def problem() -> str | None:
    """Return what is wrong with the frozen program that runs, in words; None when it is whole, or no frozen one."""
    folder = getattr(sys, "_MEIPASS", None)
    if not getattr(sys, "frozen", False) or folder is None:
        return None
    missing = faults(Path(folder))
    if not missing:
        return None
    rest = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"this copy of the program is not whole ({missing[0]}{rest} missing or cut short in {folder}); "
        "install the app again. Models and settings are kept."
    )
