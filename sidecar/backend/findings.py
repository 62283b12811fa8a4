"""What looks at models found before, in a file: a build that was looked at is known by its content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

log = logging.getLogger("sidecar.engine")


def fingerprint(path: Path, checks: int) -> str:
    """Return what a build is known by: its configuration, its weights' headers and samples of them, and our versions.

    ``checks``: their version. All bytes of the weights would take as long as loading them.
    """
    digest = hashlib.sha256(f"{checks} {version('mlx')} {version('mlx-vlm')} {mx.default_device()}".encode())
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja"):
        file = path / name
        digest.update(file.read_bytes() if file.is_file() else b"-")
    for file in sorted(path.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as data:
            for at in (0, size // 3, size // 2, max(0, size - 65536)):
                data.seek(at)
                digest.update(data.read(65536))
    return digest.hexdigest()


def read(file: Path) -> dict[str, Any]:
    """Return all findings by fingerprint, {} where there is no such file or it can't be read."""
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write(file: Path, key: str, finding: dict[str, Any]) -> None:
    """Keep what was found, of the last 200 builds. A file that can't be written costs a look at the next load."""
    document = read(file)
    document.pop(key, None)
    document[key] = finding
    kept = dict(list(document.items())[-200:])
    spare = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        spare.write_text(json.dumps(kept, indent=1), "utf-8")
        spare.replace(file)
    except OSError as exc:
        log.warning("%s can't be written: %s", file, exc)
