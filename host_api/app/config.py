"""Every setting of the host service: flag, environment variable ``MLX_HOST_…``, default."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

ENV_PREFIX = "MLX_HOST_"
PREFERRED_PORT = 60315
SIDECAR_PORT = 60316
LEVELS = ("debug", "info", "warning", "error")


class ConfigError(Exception):
    """A setting that can't be used; the message names it and says what to do. Exit code 78."""


def default_data_dir() -> Path:
    """Where the database, keys, files and logs live: per user, kept across updates."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mlx-sidecar" / "host"
    base = os.environ.get("XDG_DATA_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return root / "mlx-sidecar" / "host"


def default_state_dir() -> Path:
    """Where the sidecar's record and locks live; the ownership protocol's default."""
    from host_api.protocol.state_dir import default_state_dir as default

    return default()


def _opt(text: str, default: Any = None, factory: Any = None) -> Any:
    meta = {"help": text}
    if factory is not None:
        return field(default_factory=factory, metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """What ``mlx-host serve`` runs with. Times in seconds, sizes as named."""

    host: str = _opt("address to listen on", "127.0.0.1")
    port: int = _opt("port; 0 = any", PREFERRED_PORT)
    data_dir: Path = _opt("database, keys, uploaded files, logs", factory=default_data_dir)
    state_dir: Path = _opt("the sidecar's record and locks", factory=default_state_dir)
    log_dir: Path | None = _opt("folder for log files; default: logs in the data directory")
    log_level: str = _opt("debug, info, warning or error", "info")
    sidecar_port: int = _opt("the sidecar's preferred port; 0 = any", SIDECAR_PORT)
    api_key_file: Path | None = _opt("file with the bearer token clients must send")
    allow_origin: tuple[str, ...] = _opt("web origin allowed besides Tauri's and localhost (repeatable)", ())
    allow_host: tuple[str, ...] = _opt("Host name served besides loopback names (repeatable)", ())
    max_body_mb: int = _opt("largest request body, MiB", 128)
    grace_time: float = _opt("seconds the sidecar stays after its last host let go of it", 10.0)
    stop_delay: float = _opt("seconds without the built-in model in use before the sidecar stops", 1.0)
    request_timeout: float = _opt("seconds a model may be silent before a request is given up", 300.0)
    temperature: float = _opt("sampling temperature of chats with the built-in model; -1 = the model's own", -1.0)
    max_answer: int = _opt("most tokens of one chat answer", 1024)
    job_attempts: int = _opt("how often a task is tried", 3)

    @property
    def logs(self) -> Path:
        """The folder for log files."""
        return self.log_dir or self.data_dir / "logs"

    def token(self) -> str | None:
        """The bearer token from ``api_key_file``, or None. Raises ConfigError."""
        if self.api_key_file is None:
            return None
        try:
            lines = self.api_key_file.read_text("utf-8").split()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"--api-key-file {self.api_key_file}: can't be read ({exc})") from exc
        if not lines:
            raise ConfigError(f"--api-key-file {self.api_key_file}: is empty; put the key on its first line")
        return lines[0]


def _convert(name: str, kind: str, raw: str) -> Any:
    try:
        if kind.startswith("tuple"):
            return tuple(part.strip() for part in raw.split(",") if part.strip())
        if "Path" in kind:
            return Path(raw).expanduser()
        if kind == "int":
            return int(raw)
        if kind == "float":
            return float(raw)
    except ValueError as exc:
        raise ConfigError(f"{name} {raw!r}: give a number") from exc
    return raw


def load(argv: Sequence[str], env: Mapping[str, str] | None = None) -> HostSettings:
    """Settings from flags over environment over defaults. Raises ConfigError; ``--help`` exits."""
    env = os.environ if env is None else env
    parser = argparse.ArgumentParser(prog="mlx-host serve", description="The host service.")
    for f in fields(HostSettings):
        flag = "--" + f.name.replace("_", "-")
        text = f"{f.metadata['help']} [{ENV_PREFIX}{f.name.upper()}]"
        parser.add_argument(
            flag, dest=f.name, default=None, help=text, action="append" if str(f.type).startswith("tuple") else "store"
        )
    args = parser.parse_args(list(argv))
    values: dict[str, Any] = {}
    for f in fields(HostSettings):
        given = getattr(args, f.name)
        raw = env.get(ENV_PREFIX + f.name.upper(), "")
        if isinstance(given, list):
            values[f.name] = tuple(given)
        elif given is not None:
            values[f.name] = _convert("--" + f.name.replace("_", "-"), str(f.type), given)
        elif raw:
            values[f.name] = _convert(ENV_PREFIX + f.name.upper(), str(f.type), raw)
    settings = HostSettings(**values)
    for name in ("port", "sidecar_port"):
        if not 0 <= getattr(settings, name) <= 65535:
            raise ConfigError(f"--{name.replace('_', '-')}: give a port from 0 to 65535")
    if settings.log_level not in LEVELS:
        raise ConfigError(f"--log-level {settings.log_level}: choose one of {', '.join(LEVELS)}")
    for name in ("job_attempts", "max_body_mb", "max_answer"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: give at least 1")
    return settings
