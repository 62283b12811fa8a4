"""What the tests of the sidecar share beside the server itself."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.servers import Sidecar


@pytest.fixture(scope="module")
def http(server: Sidecar) -> Iterator[httpx.Client]:
    """A client of the server that all tests share."""
    with server.client() as client:
        yield client
