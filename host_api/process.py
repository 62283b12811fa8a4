"""Starting a sidecar process, and ending one that is provably the sidecar."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from host_api.errors import HostError
from host_api.protocol import identity
from host_api.protocol.decision import Identity
from host_api.protocol.record import OWNER_ENV, Owner, Record
from host_api.protocol.state_dir import explain


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """What to run. ``command``: the program and its first arguments; empty: from source."""

    command: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 60316
    strict_port: bool = False
    grace_time: float = 10.0
    model: str = ""
    model_dirs: tuple[Path, ...] = ()
    log_dir: Path | None = None
    extra_args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def argv(self, state_dir: Path) -> list[str]:
        """The whole command line."""
        args = [*(self.command or (sys.executable, "-m", "sidecar.entry")), "serve", "--managed"]
        args += ["--state-dir", str(state_dir), "--host", self.host, "--port", str(self.port)]
        args += ["--grace-time", f"{self.grace_time:g}", *(["--strict-port"] if self.strict_port else [])]
        args += ["--log-dir", str(self.logs(state_dir))]
        args += ["--model", self.model] if self.model else []
        for folder in self.model_dirs:
            args += ["--model-dir", str(folder)]
        return [*args, *self.extra_args]

    def logs(self, state_dir: Path) -> Path:
        """The folder for log files."""
        return self.log_dir or state_dir / "logs"


class Child:
    """A sidecar process this host started, reaped when it ends."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output
        self._reaper = threading.Thread(target=process.wait, name="mlx-sidecar-reaper", daemon=True)
        self._reaper.start()

    @property
    def exit_code(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.process.returncode

    def kill(self) -> None:
        """End it by force: it is our own child, so its PID can't be someone else's."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self._reaper.join(10)

    def tail(self, lines: int = 20) -> str:
        """The last lines it wrote to standard output and error."""
        try:
            with self._output.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 16384))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def spawn(spec: LaunchSpec, state_dir: Path, owner: Owner) -> Child:
    """Start a sidecar in a session of its own. Raises HostError or StateDirError."""
    logs = spec.logs(state_dir)
    output = logs / "launch.log"
    env = {**os.environ, **spec.env, OWNER_ENV: json.dumps(owner.to_json())}
    try:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise explain(output, exc) from exc
    argv = spec.argv(state_dir)
    # From source, `-m sidecar.entry` must be found; frozen, no working folder may be pinned down.
    cwd = state_dir if spec.command else Path(__file__).resolve().parent.parent
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=env, cwd=cwd, start_new_session=True
        )
    except OSError as exc:
        raise HostError(
            f"the sidecar program can't be run: {argv[0]}: {exc.strerror}; check the configured command"
        ) from exc
    finally:
        os.close(sink)
    return Child(process, output)


def send(record: Record, number: signal.Signals) -> bool:
    """Signal the record's process if its identity still matches; False when it isn't that process any more."""
    if not hasattr(os, "pidfd_open"):
        if identity.identify(record.pid, record.start_token) is not Identity.MATCH:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)
        return True
    try:
        fd = os.pidfd_open(record.pid)
    except OSError:
        return False
    try:
        # Checked after opening: from here on the handle can't come to mean another process.
        if identity.identify(record.pid, record.start_token) is not Identity.MATCH:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
        return True
    finally:
        os.close(fd)
