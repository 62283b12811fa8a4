"""Real host service processes for tests, each with its own data and state directory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.servers import end_process

START = 60.0


@dataclass
class HostProcess:
    """A running ``mlx-host serve``."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path

    def client(self, **kwargs: Any) -> httpx.Client:
        """An HTTP client for it that has its key."""
        own = {"authorization": f"Bearer {self.key}"} if (self.folder / "data" / "key").exists() else {}
        headers = {**own, **kwargs.pop("headers", {})}
        return httpx.Client(base_url=self.url, timeout=180, headers=headers, trust_env=False, **kwargs)

    @property
    def key(self) -> str:
        """The key it made at its first start."""
        return (self.folder / "data" / "key").read_text().strip()

    @property
    def link(self) -> str:
        """The page's address with the key."""
        return f"{self.url}/#key={self.key}"

    def sidecar(self) -> dict[str, Any]:
        """The sidecar as /status shows it."""
        with self.client() as http:
            found: dict[str, Any] = http.get("/status").json()["sidecar"]
        return found

    def wait_sidecar(self, phase: str = "running", timeout: float = START) -> dict[str, Any]:
        """Poll until the sidecar's process is in ``phase``."""
        end = time.monotonic() + timeout
        while (found := self.sidecar())["phase"] != phase:
            assert time.monotonic() < end, f"the sidecar is {found}"
            time.sleep(0.05)
        return found

    def wait_seeded(self) -> None:
        """Poll until the sidecar runs and the starter models serve what they can: a moment after it answers."""
        self.wait_sidecar()
        end = time.monotonic() + START
        with self.client() as http:
            while "embedding" not in (found := http.get("/status").json()["capabilities"]):
                assert time.monotonic() < end, f"only {found}"
                time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def logs(self) -> str:
        """Everything it logged."""
        return "".join(p.read_text() for p in sorted((self.folder / "data" / "logs").glob("*.log")))


@contextlib.contextmanager
def host(
    folder: Path, *args: str, data_dir: Path, env: Mapping[str, str] | None = None, keep_sidecar: bool = False
) -> Iterator[HostProcess]:
    """A host service with everything it keeps in ``folder``; its sidecar is gone afterwards too, or is left."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "output.txt"
    state = folder / "state"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLX_SIDECAR_", "MLX_HOST_", "DBUS_"))}
    clean |= {"MLX_SIDECAR_DATA_DIR": str(data_dir), "MLX_HOST_GRACE_TIME": "3", **(env or {})}
    command = [sys.executable, "-m", "host_api.cli", "serve", "--port", "0", "--sidecar-port", "0"]
    command += ["--data-dir", str(folder / "data"), "--state-dir", str(state), *args]
    with output.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=clean)
    try:
        yield HostProcess(process, _url(process, output), folder)
    finally:
        end_process(process)
        if not keep_sidecar:
            stop_sidecar(state)


@contextlib.contextmanager
def foreign(output: Path, command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a server of somebody else's, which prints it; ended at the end of the block."""
    with output.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
    try:
        yield _url(process, output)
    finally:
        end_process(process, 20)


def _url(process: subprocess.Popen[bytes], output: Path) -> str:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"http://\S+", output.read_text()):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{found[0]}/health", timeout=5).raise_for_status()
                return found[0]
        time.sleep(0.02)
    raise AssertionError(f"the host did not come up (status {process.poll()}): {output.read_text()}")


def stop_sidecar(state: Path) -> None:
    """End the sidecar of a state directory, if one runs."""
    try:
        lines = (state / "sidecar.pid").read_text().splitlines()
        record = json.loads(lines[1])
        health = httpx.get(f"http://127.0.0.1:{record['port']}/health", timeout=5).json()
    except (OSError, ValueError, IndexError, httpx.HTTPError):
        return
    if health["instance_id"] != record["instance_id"]:
        return
    pid = int(lines[0])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            os.kill(pid, 0)
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
                return
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
