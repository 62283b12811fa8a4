"""Real sidecar processes for tests: started on a free port, stopped at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

START = 60.0  # seconds a server may take to answer on a busy machine


def data_folder() -> Path:
    """Return the data directory that tests and benchmarks share, where the starter model is installed once."""
    return Path(os.environ.get("MLX_SIDECAR_DATA_DIR", Path.home() / ".cache" / "mlx-sidecar-dev" / "data"))


@dataclass
class Sidecar:
    """A running server."""

    process: subprocess.Popen[bytes]
    url: str
    state_dir: Path
    record: dict[str, Any]
    output: Path

    def client(self, **kwargs: Any) -> httpx.Client:
        """An HTTP client for it."""
        return httpx.Client(base_url=self.url, timeout=120, **kwargs)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def logs(self) -> str:
        """Everything it logged."""
        return "".join(p.read_text() for p in sorted((self.state_dir / "logs").glob("*.log")))


@contextlib.contextmanager
def sidecar(
    folder: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    data_dir: Path,
    enter: Callable[[], None] | None = None,
) -> Iterator[Sidecar]:
    """A server with its state in ``folder``. ``enter`` is called in its process first."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "output.txt"
    state = folder / "state"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLX_SIDECAR_")}
    command = [sys.executable, "-m", "sidecar.entry", "serve", "--port", "0", "--state-dir", str(state)]
    command += ["--data-dir", str(data_dir), *args]
    with output.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**clean, "HF_HUB_OFFLINE": "1", **(env or {})},
            preexec_fn=enter,
        )
    try:
        record = _record(process, state / "sidecar.pid", output)
        yield Sidecar(process, f"http://127.0.0.1:{record['port']}", state, record, output)
    finally:
        end_process(process)


def end_process(process: subprocess.Popen[bytes], timeout: float = 30) -> None:
    """End a process that still runs: asked to, and after ``timeout`` seconds killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _record(process: subprocess.Popen[bytes], path: Path, output: Path) -> dict[str, Any]:
    end = time.monotonic() + START
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, ValueError, IndexError, httpx.HTTPError):
            record: dict[str, Any] = json.loads(path.read_text().splitlines()[1])
            httpx.get(f"http://127.0.0.1:{record['port']}/health", timeout=5).raise_for_status()
            return record
        time.sleep(0.02)
    raise AssertionError(f"the server did not come up (status {process.poll()}): {output.read_text()}")


def wait_for(condition: Any, timeout: float = 120.0) -> None:
    """Poll ``condition`` until it is true. Raises AssertionError."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
