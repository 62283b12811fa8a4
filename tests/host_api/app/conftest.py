"""One host service for the tests that leave it as they found it, and a second provider: another real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.host_servers import HostProcess, host
from tests.support.servers import Sidecar, sidecar


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, data_dir: Path, model_dir: Path) -> Iterator[HostProcess]:
    """A host service whose sidecar is up, with minilm for vectors and tiny-vl for pictures at hand."""
    folder = tmp_path_factory.mktemp("host")
    with host(
        folder, "--max-answer", "200", data_dir=data_dir, env={"MLX_SIDECAR_MODEL_DIR": str(model_dir)}
    ) as process:
        process.wait_seeded()
        yield process


@pytest.fixture
def http(running: HostProcess) -> Iterator[httpx.Client]:
    """A client for it."""
    with running.client() as client:
        yield client


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[tuple[Sidecar, str]]:
    """Another OpenAI-compatible server that wants a key, and the key."""
    folder = tmp_path_factory.mktemp("second")
    key = folder / "key"
    key.write_text("second-secret-key\n")
    with sidecar(folder, "--api-key-file", str(key), data_dir=data_dir) as server:
        yield server, "second-secret-key"
