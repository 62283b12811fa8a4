"""Every setting of the server: field, flag and environment variable ``MLX_SIDECAR_…`` in one table."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from host_api.loopback import durations, listen, settings
from host_api.loopback.settings import ConfigError, option
from host_api.protocol.state_dir import default_state_dir

APP = "mlx-sidecar"
ENV_PREFIX = "MLX_SIDECAR_"
PREFERRED_PORT = 60316
LEVELS = ("debug", "info", "warning", "error")


def default_data_dir() -> Path:
    """Return the folder of installed models and settings: per user, kept across updates, not created here."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / APP
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / APP


def _duration(text: str) -> str | None:
    try:
        durations.parse(text)
    except ValueError as exc:
        return str(exc)
    return None


def _url(text: str) -> str | None:
    return None if text.startswith(("https://", "http://")) else "give a URL that begins with https://"


_LISTEN, _MODELS, _MEMORY = "where it listens and keeps its files", "models", "memory"
_ACCESS, _LIFE, _SIZES, _ENGINE = "who may ask", "life and logs", "sizes and limits", "engine"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``mlx-sidecar serve`` runs with. Sizes in the unit their name says, times in seconds."""

    host: str = option("127.0.0.1", "address to listen on; beyond loopback a key is needed", group=_LISTEN)
    port: int = option(
        PREFERRED_PORT, "preferred port; 0 = any; another is taken when it is busy", group=_LISTEN, least=0, most=65535
    )
    strict_port: bool = option(
        False, "fail rather than take another port when the preferred one is busy", group=_LISTEN
    )
    state_dir: Path = option(default_state_dir, "lock files, sidecar.pid", group=_LISTEN)
    data_dir: Path = option(default_data_dir, "where the starter model is installed", group=_LISTEN)
    log_dir: Path | None = option(None, "folder for log files; default: logs in the state directory", group=_LISTEN)

    model: str = option("", "model to load at start", group=_MODELS)
    model_dir: tuple[Path, ...] = option((), "folder with model folders (repeatable)", group=_MODELS)
    cache_dir: Path | None = option(
        None, "the hub's cache folder; default: HF_HUB_CACHE, HF_HOME or its usual place", group=_MODELS
    )
    hub_mirror: tuple[str, ...] = option(
        (), "mirror to pull from when the hub (HF_ENDPOINT) fails (repeatable)", group=_MODELS, check=_url
    )
    pull_stall: float = option(
        30.0, "time without a byte after which a download is begun anew", group=_MODELS, seconds=True, least=0.001
    )
    pull_attempts: int = option(5, "attempts without progress at each hub or mirror", group=_MODELS, least=1)
    warm_start: bool = option(
        True, "load the model used last in the background at start, when no --model is given", group=_MODELS
    )
    max_resident: int = option(
        1, "chat models in memory at once; the least recently used one goes first", group=_MODELS, least=1
    )
    keep_alive: str = option(
        "15m",
        "how long an unused model stays in memory: 90, 5m, 1h30m; 0 = no time, -1 = for ever",
        group=_MODELS,
        check=_duration,
    )

    memory_limit_mb: int = option(
        0, "memory models may take together, MiB; 0 = what the machine has available", group=_MEMORY, least=0
    )
    memory_check: bool = option(True, "refuse to load a model that would not fit into memory", group=_MEMORY)
    pressure_watch: bool = option(
        True, "give up caches, then idle models, when the machine runs short of memory", group=_MEMORY
    )
    prefix_cache_mb: int = option(
        -1, "memory for kept prompt prefixes, MiB; 0 = off, -1 = a tenth of memory", group=_MEMORY, least=-1
    )
    prefix_disk_mb: int = option(
        2048,
        "disk for kept prefixes of chats, encrypted, so that they go on quickly after a restart, MiB; 0 = off",
        group=_MEMORY,
        least=0,
    )
    kv_bits: int = option(0, "quantize the KV cache to 4 or 8 bits; 0 = off", group=_MEMORY, choices=(0, 4, 8))

    response_dir: Path | None = option(
        None, "folder that keeps the answers of /v1/responses over restarts; default: memory alone", group=_ACCESS
    )
    api_key_file: Path | None = option(None, "file with the key clients must send", group=_ACCESS)
    open: bool = option(False, "managed, but without a key: any program of this machine may ask", group=_ACCESS)
    allow_origin: tuple[str, ...] = option(
        (), "web origin allowed besides Tauri's and, with a key, localhost's (repeatable)", group=_ACCESS
    )
    allow_host: tuple[str, ...] = option((), "Host name served besides loopback names (repeatable)", group=_ACCESS)
    allow_image_dir: tuple[Path, ...] = option((), "folder whose files image_url may name (repeatable)", group=_ACCESS)
    allow_image_host: tuple[str, ...] = option(
        (), "host whose http(s) URLs image_url may name (repeatable)", group=_ACCESS
    )

    managed: bool = option(False, "leave when no host holds the hosts lock any more", group=_LIFE)
    grace_time: float = option(10.0, "time without a host before a managed sidecar leaves", group=_LIFE, seconds=True)
    drain_timeout: float = option(20.0, "time running requests get to finish at a stop", group=_LIFE, seconds=True)
    log_level: str = option("info", "least severe message to log", group=_LIFE, choices=LEVELS)
    log_prompts: bool = option(False, "write prompts and answers to the log (off: never)", group=_LIFE)

    max_body_mb: float = option(64.0, "largest request body, MiB", group=_SIZES, least=0)
    max_images: int = option(16, "most images in one request", group=_SIZES, least=1)
    file_tokens: int = option(
        0, "tokens that the files of a request may take together; 0 = half of the context", group=_SIZES, least=0
    )
    max_image_mpx: float = option(50.0, "largest image before it is scaled down, megapixels", group=_SIZES, least=0)
    image_side: int = option(1344, "longer side images are scaled down to, pixels", group=_SIZES, least=1)
    max_context: int = option(0, "tokens of prompt plus answer; 0 = the model's own limit", group=_SIZES)
    max_tokens: int = option(
        0,
        "answer tokens when a request gives none; 0 = what the context leaves, or 4096 for small models",
        group=_SIZES,
    )
    stop_loops: bool = option(True, "end an answer that only repeats itself, with finish_reason length", group=_SIZES)
    max_queue: int = option(64, "interactive requests waiting before 429", group=_SIZES, least=1)
    max_batch_queue: int = option(512, "batch requests waiting before 429", group=_SIZES, least=1)
    client_timeout: float = option(
        60.0, "time a client may take to send or accept a piece of data; 0 = any", group=_SIZES, seconds=True
    )

    max_rows: int = option(8, "requests decoded together, each class", group=_ENGINE, least=1)
    gap_bound: float = option(
        3.0, "longest wait of a running interactive stream, in its own inter-token times", group=_ENGINE, least=1
    )
    mixed_passes: bool = option(
        True,
        "let pieces of prompts share the pass of running rows, where the model and measured costs allow it",
        group=_ENGINE,
    )
    quiet: bool = option(
        False, "let batch work wait while the machine runs on battery, saves power or is hot", group=_ENGINE
    )
    batch_share: float = option(
        0.1, "least share of engine time batch work gets beside chats", group=_ENGINE, least=0, most=0.9
    )
    speculative_tokens: int = option(
        0, "tokens guessed ahead for a chat that runs alone, from its own text; 0 = off", group=_ENGINE
    )
    unit_log: Path | None = option(
        None, "file that gets a line for every unit of the engine's work (benchmarks.timeline draws it)", group=_ENGINE
    )
    stall_timeout: float = option(
        300.0, "time one engine step may take before the process gives up", group=_ENGINE, seconds=True
    )

    def token(self) -> str | None:
        """Return the key from ``api_key_file``, or None. Raises ConfigError."""
        return settings.read_key(self.api_key_file)

    @property
    def logs(self) -> Path:
        """Return the folder for log files."""
        return self.log_dir or self.state_dir / "logs"


def add_arguments(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Add a flag for every setting (or those named) to ``parser``; unset flags stay None."""
    settings.add_arguments(parser, Settings, ENV_PREFIX, names)


def load(args: argparse.Namespace | None = None, env: Mapping[str, str] | None = None) -> Settings:
    """Return the settings from parsed flags over environment over defaults. Raises ConfigError."""
    found = settings.load(Settings, ENV_PREFIX, args, env)
    keyless = found.api_key_file is None and (found.open or not found.managed)
    if keyless and listen.beyond_loopback(found.host):
        raise ConfigError(
            f"--host {found.host}: other machines could use this server; give --api-key-file, or listen on 127.0.0.1"
        )
    if _in_a_bundle(found.data_dir):
        raise ConfigError(
            f"--data-dir {found.data_dir}: it lies in an application, which updates replace; give a folder of the "
            "user's (an app lends its models: bundled_data_dirs)"
        )
    return found


def _in_a_bundle(path: Path) -> bool:
    """Whether a folder belongs to a macOS application, or to the frozen program that runs."""
    parts = path.parts
    in_app = any(a.endswith(".app") and b == "Contents" for a, b in itertools.pairwise(parts))
    return in_app or (getattr(sys, "frozen", False) and path.is_relative_to(Path(sys.executable).parent))


__all__ = [
    "APP",
    "ENV_PREFIX",
    "PREFERRED_PORT",
    "ConfigError",
    "Settings",
    "add_arguments",
    "default_data_dir",
    "load",
]
