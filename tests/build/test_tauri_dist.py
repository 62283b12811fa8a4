"""What `make sidecar-dist` makes for a Tauri bundle: the launcher becomes the frozen program, PID and all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.servers import wait_for

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def launcher() -> Path:
    """Tauri's externalBin for this machine's triple."""
    found = list((ROOT / "dist" / "tauri" / "binaries").glob("mlx-sidecar-*"))
    assert len(found) == 1, "run `make sidecar-dist` first (`make test` does)"
    return found[0]


def test_the_manifest_names_the_launcher(launcher: Path) -> None:
    manifest = json.loads((ROOT / "dist" / "tauri" / "manifest.json").read_text())
    assert launcher.name == f"mlx-sidecar-{manifest['triple']}"
    assert manifest["launcher"]["sha256"] == hashlib.sha256(launcher.read_bytes()).hexdigest()
    assert manifest["launcher"]["size"] < 1_000_000


@pytest.mark.parametrize("place", ["beside", "../Resources", "../lib/some-app"])
def test_it_becomes_the_program_in_the_bundle(launcher: Path, tmp_path: Path, place: str) -> None:
    here = tmp_path / "app" / "bin"
    here.mkdir(parents=True)
    program = here / "mlx-sidecar-host"
    shutil.copy2(launcher, program)
    folder = here / ("" if place == "beside" else place)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlx-sidecar").symlink_to(ROOT / "dist" / "tauri" / "mlx-sidecar")
    state = tmp_path / "state"
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    with (tmp_path / "output").open("wb") as sink:
        command = [str(program), "serve", "--port", "0", "--state-dir", str(state)]
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=env)
    try:

        def up() -> bool:
            assert process.poll() is None, (tmp_path / "output").read_text()
            try:
                record = json.loads((state / "sidecar.pid").read_text().splitlines()[1])
                health = httpx.get(f"http://127.0.0.1:{record['port']}/health").json()
                return bool(health["pid"] == record["pid"] == process.pid)
            except (OSError, IndexError, ValueError, httpx.HTTPError):
                return False

        wait_for(up, 60)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_bundle_without_the_folder_is_a_clear_error(launcher: Path, tmp_path: Path) -> None:
    program = tmp_path / "launcher"
    shutil.copy2(launcher, program)
    done = subprocess.run([str(program), "serve"], capture_output=True, text=True, timeout=30, check=False, env={})
    assert done.returncode == 78
    assert "MLX_SIDECAR_APP_DIR" in done.stderr
