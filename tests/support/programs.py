"""The conformance programs, and what tests, storm and chaos do with them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host_api.protocol import identity
from host_api.protocol.decision import Identity
from host_api.protocol.lock import held
from host_api.protocol.record import Record, parse_record
from host_api.protocol.state_dir import read_bytes

ROOT = Path(__file__).resolve().parents[2]
REAL = [sys.executable, "-m", "sidecar.entry"]
FAULTY = [sys.executable, "-m", "tests.support.misbehaving"]


def build_rust(*, release: bool = False) -> Path:
    """The Rust conformance program, built where it is out of date."""
    if shutil.which("cargo") is None:
        raise RuntimeError("cargo is missing: install Rust 1.89 or newer (https://rustup.rs) to run these tests")
    target = Path(os.environ.get("CARGO_TARGET_DIR", Path.home() / ".cache" / "mlx-sidecar-dev" / "cargo-target"))
    command = [
        "cargo",
        "build",
        "--quiet",
        "--features",
        "client",
        "--example",
        "mlx-sidecar-conformance",
        *(["--release"] if release else []),
    ]
    env = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    subprocess.run(command, cwd=ROOT / "src-tauri-snippets", env=env, check=True)
    return target / ("release" if release else "debug") / "examples" / "mlx-sidecar-conformance"


def clean_env(**more: str) -> dict[str, str]:
    """The environment without settings of the sidecar, finding the source tree."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLX_SIDECAR_", "FAULT_"))}
    path = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    return {**env, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **more}


@dataclass
class Holder:
    """A running ``hold``."""

    process: subprocess.Popen[bytes]
    first: dict[str, Any] = field(default_factory=dict)
    _buffer: bytes = b""

    def line(self, timeout: float = 60.0) -> dict[str, Any]:
        """Its next JSON line. Raises AssertionError at the end of output or time."""
        end = time.monotonic() + timeout
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            assert left > 0, "no line in time"
            if select.select([self.process.stdout], [], [], left)[0]:
                part = os.read(self.process.stdout.fileno(), 65536)
                assert part, f"it ended: {self._buffer!r}"
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        document: dict[str, Any] = json.loads(line)
        return document

    def event(self, kind: str, timeout: float = 60.0) -> dict[str, Any]:
        """The next event of that kind."""
        while (document := self.line(timeout)).get("event") != kind:
            pass
        return document

    def get(self, path: str) -> dict[str, Any]:
        """The answer to a GET of a ``client``: status and body."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n".encode())
        self.process.stdin.flush()
        return self.line()

    def let_go(self) -> int:
        """End it cleanly."""
        if self.process.stdin and not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        status = self.process.wait(30)
        self.close()
        return status

    def kill(self) -> None:
        """SIGKILL it and reap it."""
        self.process.kill()
        self.process.wait(10)
        self.close()

    def close(self) -> None:
        """Close the pipes."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@dataclass(frozen=True)
class Program:
    """One implementation."""

    name: str
    argv: tuple[str, ...]

    def start(self, command: str, state: Path, *args: str, sidecar: list[str] | None = None, **env: str) -> Holder:
        """Start a command; its first line isn't waited for."""
        words = [*self.argv, command, "--state-dir", str(state), "--command-json", json.dumps(sidecar or REAL), *args]
        pipe = subprocess.PIPE
        return Holder(subprocess.Popen(words, stdin=pipe, stdout=pipe, env=clean_env(**env), cwd=ROOT))

    def hold(self, state: Path, *args: str, sidecar: list[str] | None = None, **env: str) -> Holder:
        """A host that stays, once it is attached."""
        holder = self.start("hold", state, *args, sidecar=sidecar, **env)
        holder.first = holder.line(90)
        return holder

    def requests(self, state: Path, *args: str, sidecar: list[str] | None = None) -> Holder:
        """A host with a client, once it is attached; see ``Holder.get``."""
        holder = self.start("client", state, *args, sidecar=sidecar)
        holder.first = holder.line(90)
        return holder

    def run(
        self, command: str, state: Path, *args: str, sidecar: list[str] | None = None, **env: str
    ) -> dict[str, Any]:
        """One command's answer."""
        holder = self.start(command, state, *args, sidecar=sidecar, **env)
        try:
            return holder.line(90)
        finally:
            holder.let_go()


PYTHON = Program("py", (sys.executable, "-m", "host_api.conformance"))


def rust(*, release: bool = False) -> Program:
    """The Rust implementation."""
    return Program("rs", (str(build_rust(release=release)),))


def record(state: Path) -> Record | None:
    """The published record."""
    return parse_record(read_bytes(state / "sidecar.pid")).record


def lives(found: Record) -> bool:
    """Whether the record's process runs."""
    return identity.identify(found.pid, found.start_token) is Identity.MATCH


def sidecars(folder: Path) -> list[int]:
    """The PIDs of all processes that serve this state directory, by their command lines."""
    found: dict[int, int] = {}  # PID -> its parent's
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"serve" in words and str(folder).encode() in words:
                    stat = (entry / "stat").read_bytes()
                    state, parent = stat[stat.rindex(b")") + 2 :].split()[:2]
                    if state not in (b"Z", b"X"):
                        found[int(entry.name)] = int(parent)
    return [pid for pid, parent in found.items() if parent not in found]  # a child has not become the engine yet


def wait_for(condition: Callable[[], Any], timeout: float = 120.0, what: str = "it") -> Any:
    """Poll until ``condition`` is true and return its value. Raises AssertionError."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not happen in time"
        time.sleep(0.01)
    return value


@contextlib.contextmanager
def swept(state: Path) -> Iterator[Path]:
    """A state directory that no process uses any more afterwards."""
    try:
        yield state
    finally:
        for pid in sidecars(state):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if (state / "sidecar.lock").is_file() and not (state / "sidecar.lock").is_symlink():
            wait_for(lambda: not held(state / "sidecar.lock"), 10, "the end of the sidecar")
