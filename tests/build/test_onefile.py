"""The single-file build: two processes, and nothing left of either however they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.servers import wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = ROOT / "dist" / "onefile" / "mlx-sidecar"


@contextmanager
def onefile(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any], Path]]:
    """The loader's process, the server's record, and the folder it unpacks into."""
    assert PROGRAM.is_file(), "run `make freeze ONEFILE=1` first (`make test` does)"
    temp = folder / "tmp"
    temp.mkdir(parents=True, exist_ok=True)
    state = folder / "state"
    env = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "TMPDIR": str(temp)}
    command = [str(PROGRAM), "serve", "--port", "0", "--state-dir", str(state)]
    (state / "sidecar.pid").unlink(missing_ok=True)
    with (folder / "output").open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=env, start_new_session=True)
    try:

        def up() -> bool:
            assert process.poll() is None, (folder / "output").read_text()
            try:
                record = json.loads((state / "sidecar.pid").read_text().splitlines()[1])
                return httpx.get(f"http://127.0.0.1:{record['port']}/health").status_code == 200
            except (OSError, IndexError, ValueError, httpx.HTTPError):
                return False

        wait_for(up, 120)
        yield process, json.loads((state / "sidecar.pid").read_text().splitlines()[1]), temp
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("target", ["loader", "server"])
def test_sigterm_leaves_nothing(tmp_path: Path, target: str) -> None:
    with onefile(tmp_path) as (process, record, temp):
        assert record["pid"] != process.pid
        assert len(list(temp.glob("_MEI*"))) == 1
        os.kill(process.pid if target == "loader" else record["pid"], signal.SIGTERM)
        process.wait(30)
        wait_for(lambda: not alive(record["pid"]))
        assert list(temp.glob("_MEI*")) == []


def test_sigkill_of_the_loader_ends_the_server_and_the_next_start_cleans_up(tmp_path: Path) -> None:
    with onefile(tmp_path) as (process, record, temp):
        process.kill()
        process.wait(10)
        wait_for(lambda: not alive(record["pid"]))
        left = list(temp.glob("_MEI*"))
        assert len(left) == 1
    with onefile(tmp_path) as (_, _, temp):
        wait_for(lambda: not left[0].exists())
        assert len(list(temp.glob("_MEI*"))) == 1
