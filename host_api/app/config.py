"""Every setting of the host service: field, flag and environment variable ``MLX_HOST_…`` in one table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from host_api.loopback import listen, settings
from host_api.loopback.settings import ConfigError, option
from host_api.protocol.state_dir import default_state_dir

ENV_PREFIX = "MLX_HOST_"
PREFERRED_PORT = 60315
SIDECAR_PORT = 60316
LEVELS = ("debug", "info", "warning", "error")


def default_data_dir() -> Path:
    """Return where the database, keys, files and logs live: per user, kept across updates."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mlx-sidecar" / "host"
    base = os.environ.get("XDG_DATA_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return root / "mlx-sidecar" / "host"


_LISTEN, _ACCESS = "where it listens and keeps its files", "who may ask"
_SIDECAR, _ANSWERS, _LOGS = "the sidecar", "answers and tasks", "logs"


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """What ``mlx-host serve`` runs with. Times in seconds, sizes as named."""

    host: str = option("127.0.0.1", "address to listen on; beyond loopback a key is needed", group=_LISTEN)
    port: int = option(PREFERRED_PORT, "port; 0 = any", group=_LISTEN, least=0, most=65535)
    data_dir: Path = option(default_data_dir, "database, keys, uploaded files, logs", group=_LISTEN)
    log_dir: Path | None = option(None, "folder for log files; default: logs in the data directory", group=_LISTEN)

    api_key_file: Path | None = option(
        None,
        "file with the key clients must send; default: key in the data directory, made at the first start",
        group=_ACCESS,
    )
    open: bool = option(False, "ask nobody for a key: any program of this machine may use the service", group=_ACCESS)
    allow_origin: tuple[str, ...] = option(
        (), "web origin allowed besides Tauri's and the page's own (repeatable)", group=_ACCESS
    )
    allow_host: tuple[str, ...] = option((), "Host name served besides loopback names (repeatable)", group=_ACCESS)
    max_body_mb: int = option(128, "largest request body, MiB", group=_ACCESS, least=1)
    client_timeout: float = option(
        60.0, "time a client may take to send or accept a piece of data; 0 = any", group=_ACCESS, seconds=True
    )

    state_dir: Path = option(default_state_dir, "the sidecar's record and locks", group=_SIDECAR)
    sidecar_port: int = option(
        SIDECAR_PORT, "the sidecar's preferred port; 0 = any", group=_SIDECAR, least=0, most=65535
    )
    grace_time: float = option(
        10.0, "time the sidecar stays after its last host let go of it", group=_SIDECAR, seconds=True
    )
    stop_delay: float = option(
        1.0, "time without the built-in model in use before the sidecar stops", group=_SIDECAR, seconds=True
    )

    request_timeout: float = option(
        300.0, "time a model may be silent before a request is given up", group=_ANSWERS, seconds=True, least=0.001
    )
    temperature: float = option(
        -1.0,
        "sampling temperature of chats with the built-in model; -1 = the model's own",
        group=_ANSWERS,
        least=-1,
        most=2,
    )
    max_answer: int = option(1024, "most tokens of one chat answer", group=_ANSWERS, least=1)
    job_attempts: int = option(3, "how often a task is tried", group=_ANSWERS, least=1)

    log_level: str = option("info", "least severe message to log", group=_LOGS, choices=LEVELS)

    @property
    def logs(self) -> Path:
        """Return the folder for log files."""
        return self.log_dir or self.data_dir / "logs"


def load(argv: Sequence[str], env: Mapping[str, str] | None = None) -> HostSettings:
    """Return settings from flags over environment over defaults. Raises ConfigError; ``--help`` exits."""
    parser = argparse.ArgumentParser(prog="mlx-host serve", description="Run the host service.")
    settings.add_arguments(parser, HostSettings, ENV_PREFIX)
    found = settings.load(HostSettings, ENV_PREFIX, parser.parse_args(list(argv)), env)
    if found.open and found.api_key_file is None and listen.beyond_loopback(found.host):
        raise ConfigError(
            f"--host {found.host}: other machines could use this service; leave --open out, or listen on 127.0.0.1"
        )
    return found


__all__ = ["ConfigError", "HostSettings", "default_data_dir", "load"]
