"""Every setting of the server, in one table: command-line flag, environment variable, default.

Flag ``--drain-timeout`` is environment variable ``MLX_SIDECAR_DRAIN_TIMEOUT`` and field
``Settings.drain_timeout``. The command line wins over the environment, which wins over the default.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from host_api.protocol.state_dir import default_state_dir
from sidecar import durations

APP = "mlx-sidecar"
ENV_PREFIX = "MLX_SIDECAR_"
PREFERRED_PORT = 60316


class ConfigError(Exception):
    """A setting that can't be used; the message names it and says what to do. Exit code 78."""


def default_data_dir() -> Path:
    """Return the folder of installed models and settings: per user, kept across updates, not created here."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / APP
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / APP


def _opt(default: Any, text: str, **extra: Any) -> Any:
    meta = {"help": text, **extra}
    if callable(default):
        return field(default_factory=default, metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``mlx-sidecar serve`` runs with. Sizes in the unit their name says, times in seconds."""

    host: str = _opt("127.0.0.1", "address to listen on")
    port: int = _opt(PREFERRED_PORT, "preferred port; 0 = any; another is taken when it is busy")
    strict_port: bool = _opt(False, "fail rather than take another port when the preferred one is busy")
    state_dir: Path = _opt(default_state_dir, "lock files, sidecar.pid")
    model_dir: tuple[Path, ...] = _opt((), "folder with model folders (repeatable)")
    data_dir: Path = _opt(default_data_dir, "where the starter model is installed")
    cache_dir: Path | None = _opt(None, "the hub's cache folder; default: HF_HUB_CACHE, HF_HOME or its usual place")
    hub_mirror: tuple[str, ...] = _opt((), "mirror to pull from when the hub (HF_ENDPOINT) fails (repeatable)")
    pull_stall: float = _opt(30.0, "seconds without a byte after which a download is begun anew")
    pull_attempts: int = _opt(5, "attempts without progress at each hub or mirror")
    model: str = _opt("", "model to load at start")
    warm_start: bool = _opt(True, "load the model used last in the background at start, when no --model is given")
    max_resident: int = _opt(1, "chat models in memory at once; the least recently used one goes first")
    keep_alive: str = _opt("15m", "how long an unused model stays in memory: 90, 5m, 1h30m; 0 = no time, -1 = for ever")
    memory_limit_mb: int = _opt(0, "memory models may take together, MiB; 0 = what the machine has available")
    memory_check: bool = _opt(True, "refuse to load a model that would not fit into memory")
    pressure_watch: bool = _opt(True, "give up caches, then idle models, when the machine runs short of memory")
    api_key_file: Path | None = _opt(None, "file with the bearer token clients must send")
    open: bool = _opt(False, "managed, but without a token: any program of this machine may ask")
    log_dir: Path | None = _opt(None, "folder for log files; default: logs in the state directory")
    log_level: str = _opt("info", "debug, info, warning or error", choices=("debug", "info", "warning", "error"))
    log_prompts: bool = _opt(False, "write prompts and answers to the log (off: never)")
    managed: bool = _opt(False, "leave when no host holds the hosts lock any more")
    grace_time: float = _opt(10.0, "seconds without a host before a managed sidecar leaves")
    drain_timeout: float = _opt(20.0, "seconds running requests get to finish at a stop")
    allow_origin: tuple[str, ...] = _opt((), "web origin allowed besides Tauri's and localhost (repeatable)")
    allow_host: tuple[str, ...] = _opt((), "Host name served besides loopback names (repeatable)")
    allow_image_dir: tuple[Path, ...] = _opt((), "folder whose files image_url may name (repeatable)")
    allow_image_host: tuple[str, ...] = _opt((), "host whose http(s) URLs image_url may name (repeatable)")
    max_body_mb: float = _opt(64.0, "largest request body, MiB")
    max_images: int = _opt(16, "most images in one request")
    max_image_mpx: float = _opt(50.0, "largest image before it is scaled down, megapixels")
    image_side: int = _opt(1344, "longer side images are scaled down to, pixels")
    max_context: int = _opt(0, "tokens of prompt plus answer; 0 = the model's own limit")
    max_tokens: int = _opt(0, "answer tokens when a request gives none; 0 = what the context leaves")
    max_rows: int = _opt(8, "requests decoded together, each class")
    max_queue: int = _opt(64, "interactive requests waiting before 429")
    max_batch_queue: int = _opt(512, "batch requests waiting before 429")
    gap_bound: float = _opt(3.0, "longest wait of a running interactive stream, in its own inter-token times")
    batch_share: float = _opt(0.1, "least share of engine time batch work gets beside chats, 0 to 0.9")
    prefix_cache_mb: int = _opt(-1, "memory for kept prompt prefixes, MiB; 0 = off, -1 = a tenth of memory")
    speculative_tokens: int = _opt(0, "tokens guessed ahead for a chat that runs alone, from its own text; 0 = off")
    kv_bits: int = _opt(0, "quantize the KV cache to 4 or 8 bits; 0 = off", choices=(0, 4, 8))
    client_timeout: float = _opt(60.0, "seconds a client may take to send or accept a piece of data")
    stall_timeout: float = _opt(300.0, "seconds one engine step may take before the process gives up")

    def token(self) -> str | None:
        """The bearer token from ``api_key_file``, or None. Raises ConfigError."""
        if self.api_key_file is None:
            return None
        try:
            text = self.api_key_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"--api-key-file {self.api_key_file}: can't be read ({exc})") from exc
        if not text:
            raise ConfigError(f"--api-key-file {self.api_key_file}: is empty; put the key on its first line")
        return text.splitlines()[0].strip()

    @property
    def logs(self) -> Path:
        """The folder for log files."""
        return self.log_dir or self.state_dir / "logs"


def _parser_for(f: Any) -> Any:
    kind = str(f.type)
    if "Path" in kind:
        return lambda text: Path(text).expanduser()
    if kind.startswith("int"):
        return int
    if kind.startswith("float"):
        return float
    return str


def _parts(f: Any, raw: str) -> list[str]:
    """The pieces of a list in the environment: paths parted as in PATH, all else (URLs have colons) by commas."""
    separator = os.pathsep if "Path" in str(f.type) else ","
    return [part.strip() for part in raw.split(separator) if part.strip()]


def _is_flag(f: Any) -> bool:
    return str(f.type) == "bool"


def _is_list(f: Any) -> bool:
    return str(f.type).startswith("tuple")


def add_arguments(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Add a flag for every setting (or those named) to ``parser``; unset flags stay None."""
    for f in fields(Settings):
        if names is not None and f.name not in names:
            continue
        flag = "--" + f.name.replace("_", "-")
        text = f"{f.metadata['help']} [{ENV_PREFIX}{f.name.upper()}]"
        if _is_flag(f):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif _is_list(f):
            parser.add_argument(flag, action="append", type=_parser_for(f), default=None, help=text)
        else:
            parser.add_argument(flag, type=_parser_for(f), choices=f.metadata.get("choices"), default=None, help=text)


def _from_env(f: Any, raw: str) -> Any:
    variable = ENV_PREFIX + f.name.upper()
    if _is_flag(f):
        word = raw.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off", ""):
            return False
        raise ConfigError(f"{variable}={raw!r}: say 1 or 0")
    parse = _parser_for(f)
    try:
        value = tuple(parse(part) for part in _parts(f, raw)) if _is_list(f) else parse(raw)
    except ValueError as exc:
        raise ConfigError(f"{variable}={raw!r}: {exc}") from exc
    choices = f.metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{variable}={raw!r}: choose one of {', '.join(map(str, choices))}")
    return value


def load(args: argparse.Namespace | None = None, env: Mapping[str, str] | None = None) -> Settings:
    """Settings from parsed flags over environment over defaults. Raises ConfigError."""
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    for f in fields(Settings):
        given = getattr(args, f.name, None) if args is not None else None
        if given is not None:
            values[f.name] = tuple(given) if _is_list(f) else given
        elif (raw := env.get(ENV_PREFIX + f.name.upper())) not in (None, ""):
            values[f.name] = _from_env(f, str(raw))
    settings = Settings(**values)
    _check(settings)
    return settings


def _check(s: Settings) -> None:
    if not 0 <= s.port <= 65535:
        raise ConfigError(f"--port {s.port}: give a port from 0 to 65535")
    if not 0 <= s.batch_share <= 0.9:
        raise ConfigError(f"--batch-share {s.batch_share}: give a share from 0 to 0.9")
    if s.gap_bound < 1:
        raise ConfigError(f"--gap-bound {s.gap_bound}: give at least 1")
    try:
        durations.parse(s.keep_alive)
    except ValueError as exc:
        raise ConfigError(f"--keep-alive {s.keep_alive}: {exc}") from exc
    for url in s.hub_mirror:
        if not url.startswith(("https://", "http://")):
            raise ConfigError(f"--hub-mirror {url}: give a URL that begins with https://")
    if s.pull_stall <= 0:
        raise ConfigError(f"--pull-stall {s.pull_stall}: give more than 0")
    low = ("pull_attempts", "max_resident", "max_images", "max_rows", "max_queue", "max_batch_queue", "image_side")
    for name in low:
        if getattr(s, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(s, name)}: give at least 1")
    for name in (
        "max_body_mb",
        "max_image_mpx",
        "client_timeout",
        "stall_timeout",
        "drain_timeout",
        "grace_time",
        "memory_limit_mb",
    ):
        if getattr(s, name) < 0:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(s, name)}: can't be negative")
