"""The page at ``/`` and its built files, under a policy that lets nothing else in."""

from __future__ import annotations

import mimetypes
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from host_api.app.errors import ApiError
from host_api.loopback import docs_page

router = APIRouter(include_in_schema=False)
BUILT = Path(__file__).parents[1] / "web" / "dist"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The names stay the same from build to build.
    "Cache-Control": "no-cache",
}


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Every built file by its path from the page, and its media type."""
    found = {}
    for path in sorted(BUILT.rglob("*")):
        if path.is_file():
            kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
            found[path.relative_to(BUILT).as_posix()] = (path.read_bytes(), kind or "application/octet-stream")
    return found


def _file(name: str) -> Response:
    try:
        content, kind = _files()[name]
    except KeyError:
        raise ApiError(404, "There is nothing at this path.", code="http_404") from None
    return Response(content, media_type=kind, headers=_HEADERS)


@router.get("/")
def page() -> Response:
    """The page."""
    return _file("index.html")


@router.get("/assets/{name}")
def asset(name: str) -> Response:
    """One of its files."""
    return _file(f"assets/{name}")


@router.get("/docs")
def docs(request: Request) -> Response:
    """The reference of the API; loads nothing."""
    return Response(docs_page.page(request.app.openapi()), media_type="text/html", headers=docs_page.HEADERS)
