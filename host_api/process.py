"""Starting a sidecar process in an environment of its own, and signalling one that is provably the sidecar."""

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
from host_api.protocol import build, identity
from host_api.protocol.decision import Identity
from host_api.protocol.folders import Folders
from host_api.protocol.record import BUILD_ENV, OWNER_ENV, Owner, Record
from host_api.protocol.state_dir import absolute, explain, make_folder, open_beneath

# What a host was started with and a sidecar must not inherit: an AppImage's libraries, another Python's modules, the
# marks by which one frozen program knows another as its child.
_FOREIGN = ("PYTHON", "_PYI_", "_MEIPASS", "DYLD_", "LD_LIBRARY_PATH", "APPDIR", "APPIMAGE", "ARGV0", "OWD")
# Settings that are paths: relative ones mean the host's working folder, and the sidecar has another.
_PATHS = ("DATA_DIR", "CACHE_DIR", "LOG_DIR", "API_KEY_FILE", "ALLOW_IMAGE_DIR")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """What to run. ``command``: the program and its first arguments; empty: from source."""

    command: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 60316
    strict_port: bool = False
    grace_time: float = 10.0
    model: str = ""
    model_dirs: tuple[Path, ...] = ()  # lent while this host is attached, never changed
    bundled_data_dirs: tuple[Path, ...] = ()  # data directories of an app's bundle: the same
    log_dir: Path | None = None
    extra_args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def argv(self, state_dir: Path) -> list[str]:
        """Return the whole command line; every path in it is absolute."""
        args = [*(self.command or (sys.executable, "-m", "sidecar.entry")), "serve", "--managed"]
        args += ["--state-dir", str(state_dir), "--host", self.host, "--port", str(self.port)]
        args += ["--grace-time", f"{self.grace_time:g}", *(["--strict-port"] if self.strict_port else [])]
        args += ["--log-dir", str(self.logs(state_dir))]
        args += ["--model", self.model] if self.model else []
        return [*args, *self.extra_args]

    def lends(self) -> Folders:
        """Return the folders that this host lends: those named here, and those of the environment."""
        env = {**os.environ, **self.env}

        def of(name: str) -> list[Path]:
            return [Path(part) for part in env.get(f"MLX_SIDECAR_{name}", "").split(os.pathsep) if part]

        models, bundles = [*self.model_dirs, *of("MODEL_DIR")], [*self.bundled_data_dirs, *of("DATA_DIR")]
        return Folders(model_dirs=tuple(map(absolute, models)), data_dirs=tuple(map(absolute, bundles)))

    def logs(self, state_dir: Path) -> Path:
        """Return the folder for log files."""
        return absolute(self.log_dir) if self.log_dir else state_dir / "logs"

    def source_version(self) -> str | None:
        """Return the version that a start from source would have; None when something else would be started."""
        if self.command:
            return None
        import re

        with contextlib.suppress(OSError):
            text = (Path(__file__).resolve().parent.parent / "sidecar" / "__init__.py").read_text("utf-8")
            found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
            return found.group(1) if found else None
        return None

    def environment(self, owner: Owner) -> dict[str, str]:
        """Return the sidecar's environment: the host's without what is the host's alone, and with what it needs."""
        env = dict(os.environ)
        if self.command:
            for name in [n for n in env if n.startswith(_FOREIGN)]:
                original = env.get(f"{name}_ORIG")  # what an AppImage or a frozen host put aside
                del env[name]
                if original:
                    env[name] = original
        env.pop("MLX_SIDECAR_MODEL_DIR", None)  # lent, see ``lends``
        for name in (f"MLX_SIDECAR_{n}" for n in _PATHS):
            if env.get(name):
                parts = env[name].split(os.pathsep)
                env[name] = os.pathsep.join(str(absolute(Path(part))) if part else part for part in parts)
        for name in ("NO_PROXY", "no_proxy"):
            words = [word for word in env.get(name, "").split(",") if word]
            env[name] = ",".join([*words, *(word for word in _LOOPBACK if word not in words)])
        env |= {"PYINSTALLER_RESET_ENVIRONMENT": "1", **self.env, OWNER_ENV: json.dumps(owner.to_json())}
        program = build.program_of(self.command, env)
        print_of_it = build.fingerprint(program) if program else None
        if program and print_of_it:
            env[BUILD_ENV] = f"{print_of_it}:{program}"
        return env


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
        """Return the last lines it wrote to standard output and error."""
        try:
            with os.fdopen(open_beneath(self._output, os.O_RDONLY), "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 16384))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def spawn(spec: LaunchSpec, state_dir: Path, owner: Owner) -> Child:
    """Start a sidecar in a session of its own. Raises HostError or StateDirError."""
    if not spec.command and getattr(sys, "frozen", False):
        # `sys.executable -m` would start this very program again.
        raise HostError("no sidecar program is configured; set LaunchSpec.command to the path of mlx-sidecar")
    logs = spec.logs(state_dir)
    output = logs / "launch.log"
    try:
        if spec.log_dir is None:
            make_folder(logs)
        else:
            logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        sink = open_beneath(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError as exc:
        raise explain(output, exc) from exc
    # From source, `-m sidecar.entry` must be found; else no folder of an app or a disk image may be pinned down.
    cwd = state_dir if spec.command else Path(__file__).resolve().parent.parent
    try:
        os.ftruncate(sink, 0)
        argv = spec.argv(state_dir)
        env = spec.environment(owner)
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=env, cwd=cwd, start_new_session=True
        )
    except OSError as exc:
        raise HostError(f"{argv[0]}: {exc.strerror}") from exc
    finally:
        os.close(sink)
    return Child(process, output)


def send(record: Record, number: signal.Signals) -> bool:
    """Signal the record's process if its identity still matches; False when it isn't that process any more."""
    fd = None
    if hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(record.pid)
        except ProcessLookupError:
            return False
        except OSError:
            fd = None  # an old kernel, or one that forbids it: the check before the signal has to do
    try:
        # Checked after opening: from here on the handle can't come to mean another process.
        if identity.identify(record.pid, record.start_token, record.namespace) is not Identity.MATCH:
            return False
        with contextlib.suppress(ProcessLookupError):
            if fd is not None:
                signal.pidfd_send_signal(fd, number)
            else:
                os.kill(record.pid, number)
        return True
    except PermissionError:
        return False
    finally:
        if fd is not None:
            os.close(fd)
