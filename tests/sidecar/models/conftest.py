"""The starter model's folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.backend import loader
from sidecar.models.starter import eyes


@pytest.fixture(scope="session")
def seeing_dir(tmp_path_factory: pytest.TempPathFactory, starter_text_dir: Path) -> Path:
    """The assembled model that sees."""
    folder = tmp_path_factory.mktemp("seeing")
    eyes.assemble(starter_text_dir, folder)
    return folder


@pytest.fixture(scope="session")
def seeing(seeing_dir: Path) -> tuple[Any, Any]:
    """The assembled model and its processor, loaded."""
    from mlx_vlm.utils import load

    model, processor = load(str(seeing_dir), lazy=True)
    assert loader.share_output_layer(model)
    return model, processor
