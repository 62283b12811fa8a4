"""Instructor, in an environment of its own, over a real socket: JSON schema, tools, partial objects."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import Sidecar

SOURCE = Path(__file__).with_name("instructor")


@pytest.fixture(scope="module")
def python() -> Path:
    """Return the interpreter of an environment with Instructor, made once for all runs on this machine."""
    digest = hashlib.sha256((SOURCE / "requirements.txt").read_bytes()).hexdigest()[:12]
    folder = Path.home() / ".cache" / "mlx-sidecar-dev" / f"instructor-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / "venv" / "bin" / "python"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            pip = [str(found), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / "venv")], check=True, timeout=100)
            subprocess.run([*pip, "-r", str(SOURCE / "requirements.txt")], check=True, timeout=180)
            (folder / "ready").touch()
    return found


def test_instructor(server: Sidecar, python: Path) -> None:
    command = [str(python), str(SOURCE / "ask.py"), server.url]
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_PRELOAD", "PYTHONWARNINGS")}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    out: dict[str, Any] = json.loads(done.stdout)
    assert len(out["nested"]["all"]) == 2
    for mode in ("JSON_SCHEMA", "TOOLS"):
        assert set(out[mode]) == {"name", "large"}
        count, last = out[f"{mode} partial"]
        assert count > 1
        assert isinstance(last["name"], str)
        assert isinstance(last["large"], bool)
