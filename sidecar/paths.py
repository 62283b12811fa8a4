"""Default places on the user's machine. Nothing here creates a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

APP = "mlx-sidecar"


def data_dir() -> Path:
    """Where installed models and settings live: per user, kept across updates."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / APP
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / APP


def state_dir() -> Path:
    """Where lock files and ``sidecar.pid`` live; the ownership protocol's default."""
    from host_api.protocol.state_dir import default_state_dir

    return default_state_dir()
