"""docs/reference/ says what the code says: every page is what `make reference` would write."""

from __future__ import annotations

from dataclasses import fields

import httpx
import pytest

from host_api.app.config import HostSettings
from sidecar.config import Settings
from tests.support.servers import Sidecar
from tools import reference

NAMES = ("settings.md", "cli.md", "fields.md", "http-sidecar.md", "http-host.md")


@pytest.fixture(scope="module")
def pages(server: Sidecar) -> dict[str, str]:
    """Return the pages as they would be written now."""
    return reference.pages(httpx.get(f"{server.url}/openapi.json").json(), reference.host_document())


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_what_the_code_says(pages: dict[str, str], name: str) -> None:
    assert set(pages) == set(NAMES)
    kept = (reference.FOLDER / name).read_text("utf-8")
    assert kept.splitlines() == pages[name].splitlines(), "run: make reference"


def test_every_setting_and_every_route_is_there(pages: dict[str, str], server: Sidecar) -> None:
    for f in [*fields(Settings), *fields(HostSettings)]:
        assert f"`--{f.name.replace('_', '-')}`" in pages["settings.md"]
    for path in httpx.get(f"{server.url}/openapi.json").json()["paths"]:
        assert f" {path}`" in pages["http-sidecar.md"]
