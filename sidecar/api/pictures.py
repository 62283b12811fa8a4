"""Images of a request: from an ``image_url`` to the bytes it names, within limits."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sidecar.config import Settings
from sidecar.errors import bad_request

_FETCH_TIMEOUT = 15.0
_URL_SAFE = str.maketrans("-_", "+/")  # the other alphabet of RFC 4648


def fetch(url: str, settings: Settings, *, param: str) -> bytes:
    """Return the bytes an ``image_url`` names. Raises ApiError. Blocking."""
    if url[:5].lower() == "data:":
        return data_url(url, param)
    scheme = urlsplit(url).scheme.lower()
    if scheme in ("http", "https"):
        return _remote(url, settings, param)
    if scheme in ("", "file"):
        return _file(url, settings, param)
    raise bad_request(f"{param}: {scheme}: URLs are not supported; send the image as a data URL.", param=param)


def data_url(url: str, param: str) -> bytes:
    """Return the bytes in a data URL. Raises ApiError."""
    head, comma, body = url.partition(",")
    if not comma:
        raise bad_request(f"{param}: the data URL has no data.", param=param)
    try:
        if head.rstrip().lower().endswith(";base64"):
            body = "".join((unquote(body) if "%" in body else body).split()).translate(_URL_SAFE).rstrip("=")
            return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
        return unquote(body).encode("latin-1")
    except (binascii.Error, ValueError) as exc:
        raise bad_request(f"{param}: the data URL is not valid base64 ({exc}).", param=param) from exc


def _file(url: str, settings: Settings, param: str) -> bytes:
    refused = bad_request(
        f"{param}: file paths are off; send a data URL, or start the server with --allow-image-dir.",
        param=param,
    )
    if not settings.allow_image_dir:
        raise refused
    try:
        path = Path(unquote(urlsplit(url).path) if url.startswith("file:") else url).resolve(strict=True)
        if not any(path.is_relative_to(folder.resolve()) for folder in settings.allow_image_dir):
            raise refused
        if path.stat().st_size > settings.max_body_mb * 1024 * 1024:
            raise bad_request(f"{param}: the file is larger than {settings.max_body_mb:g} MiB.", param=param)
        return path.read_bytes()
    except (OSError, ValueError) as exc:
        raise refused from exc


def _remote(url: str, settings: Settings, param: str) -> bytes:
    host = (urlsplit(url).hostname or "").lower()
    if host not in {h.lower() for h in settings.allow_image_host}:
        raise bad_request(
            f"{param}: http(s) URLs are off; send a data URL, or start the server with --allow-image-host {host}.",
            param=param,
        )
    import httpx

    limit = int(settings.max_body_mb * 1024 * 1024)
    try:
        with httpx.stream("GET", url, timeout=_FETCH_TIMEOUT, follow_redirects=False) as answer:
            if answer.status_code != httpx.codes.OK:
                raise bad_request(f"{param}: the image's server answered {answer.status_code}.", param=param)
            data = bytearray()
            for chunk in answer.iter_bytes():
                data += chunk
                if len(data) > limit:
                    raise bad_request(f"{param}: the image is larger than {settings.max_body_mb:g} MiB.", param=param)
            return bytes(data)
    except httpx.HTTPError as exc:
        raise bad_request(f"{param}: the image can't be fetched ({type(exc).__name__}).", param=param) from exc
