"""The service's key: made at the first start, readable by its user alone; and the way to the page with it."""

from __future__ import annotations

import html
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from host_api.loopback.settings import read_key

if TYPE_CHECKING:
    from host_api.app.config import HostSettings


def key_of(settings: HostSettings) -> str | None:
    """Return the key that clients must send, made where there is none yet; None for a service that is open.

    Raises ConfigError or OSError.
    """
    if settings.api_key_file is not None:
        return read_key(settings.api_key_file)
    if settings.open:
        return None
    path = settings.data_dir / "key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as sink:
            sink.write(secrets.token_urlsafe(32) + "\n")
    except FileExistsError:
        path.chmod(0o600)
    return read_key(path, "the key")


def link(url: str, key: str | None) -> str:
    """Return the address of the page, with the key where it stays in the browser: no request carries a fragment."""
    return f"{url}/#key={key}" if key else f"{url}/"


def announce(data_dir: Path, url: str, key: str | None) -> None:
    """Leave word of where the service is, for ``mlx-host open``. Raises OSError."""
    document = json.dumps({"url": url, "pid": os.getpid()})
    # A browser is started with a file, not with the link: other users see what programs are started with.
    page = f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(link(url, key))}">'
    for name, text in (("service.json", document), ("open.html", page)):
        fresh = data_dir / f"{name}.new"
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as sink:
            sink.write(text)
        fresh.replace(data_dir / name)


def lives(url: str) -> bool:
    """Return whether a host service answers at ``url``."""
    import httpx

    try:
        answer = httpx.get(f"{url}/health", timeout=5.0, trust_env=False)
        return bool(answer.json().get("service") == "mlx-host")
    except (httpx.HTTPError, ValueError, AttributeError):
        return False


def found(data_dir: Path) -> tuple[str, Path] | None:
    """Return the address of the service of a data directory and the file that opens its page, or None."""
    try:
        return str(json.loads((data_dir / "service.json").read_text())["url"]), data_dir / "open.html"
    except (OSError, ValueError, KeyError, TypeError):
        return None
