"""Programs on Node.js for tests, each with its pinned packages, installed once for all runs on this machine."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest


def folder_of(source: Path) -> Path:
    """Return the folder in which the packages of ``source``'s package-lock.json are, or would be, installed."""
    digest = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()[:12]
    return Path.home() / ".cache" / "mlx-sidecar-dev" / f"ai-sdk-{digest}"


def installed(source: Path, *programs: str) -> Path:
    """Return a folder with the packages of ``source``'s package-lock.json, and ``programs`` of ``source`` in it."""
    if shutil.which("npm") is None:
        pytest.fail("This test runs on Node.js: install it with npm (Debian: apt-get install nodejs npm).")
    folder = folder_of(source)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in ("package.json", "package-lock.json", *programs):
            shutil.copy(source / name, folder)
        if not (folder / "ready").exists():
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run(command, cwd=folder, check=True, timeout=200, capture_output=True)
            (folder / "ready").touch()
    return folder
