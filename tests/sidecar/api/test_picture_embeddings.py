"""Pictures in ``/v1/embeddings``: vectors are those of mlx-vlm's own embedding of the same."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support import models


def picture(seed: int) -> str:
    sink = io.BytesIO()
    Image.effect_noise((64, 96), seed).convert("RGB").save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


RED, NOISE = picture(5), picture(90)
TEXTS = ["a house with a red roof, and the quick brown fox jumps over the lazy dog", "count to ten"]


@pytest.fixture(scope="module")
def sees(model_dir: Path) -> Iterator[Path]:
    """A Qwen3-VL of embeddings as it is published: under the chat model's name, told by ``modules.json``."""
    path = models.qwen3_vl(model_dir / "vl-embedding")
    (path / "modules.json").write_text("[]")
    yield path
    shutil.rmtree(path)


def own_vectors(path: Path, work: Path) -> list[list[float]]:
    """Return what mlx-vlm itself makes of two texts and two pictures, each by a model that saw nothing before."""
    from mlx_vlm.embedding_loader import load_embedding_model
    from mlx_vlm.server.embeddings import _embed_items, _normalize_input
    from mlx_vlm.utils import load_processor

    shutil.copytree(path, work)
    config = json.loads((work / "config.json").read_text())
    (work / "config.json").write_text(json.dumps(config | {"model_type": "qwen3_vl_embedding"}))
    load_embedding_model(work)  # which makes transformers know the processor
    processor = load_processor(work, add_detokenizer=False)
    out = []
    for item in (*TEXTS, {"image_url": RED}, {"image_url": NOISE}):
        model = load_embedding_model(work)
        vectors, _ = _embed_items(model, processor, _normalize_input([item]))
        out += vectors
    return out


def test_pictures_and_texts_have_mlx_vlms_own_vectors(http: httpx.Client, sees: Path, tmp_path: Path) -> None:
    want = own_vectors(sees, tmp_path / "own")
    assert max(abs(a - b) for a, b in zip(want[2], want[3], strict=True)) > 0.01, "pictures make no difference"
    given: list[Any] = [{"image_url": {"url": RED}}, TEXTS[0], {"type": "image", "image": NOISE}, {"text": TEXTS[1]}]
    found = http.post("/v1/embeddings", json={"model": "vl-embedding", "input": given})
    assert found.status_code == 200, found.text
    vectors = [row["embedding"] for row in found.json()["data"]]
    for got, own in zip(vectors, (want[2], want[0], want[3], want[1]), strict=True):
        assert got == pytest.approx(own, abs=1e-4)
    alone = http.post("/v1/embeddings", json={"model": "vl-embedding", "input": [{"image_url": RED}]}).json()
    assert alone["data"][0]["embedding"] == pytest.approx(want[2], abs=1e-4)
    assert alone["usage"]["prompt_tokens"] > 6
    assert len(http.post("/v1/embeddings", json={"model": "vl-embedding", "input": TEXTS}).json()["data"]) == 2


def test_pictures_are_refused_where_they_can_not_be_embedded(http: httpx.Client, sees: Path) -> None:
    for model, given, said, param in (
        ("minilm", [{"image_url": RED}], "takes no images", "input.0"),
        ("vl-embedding", [{"text": "a", "image": RED}], "a text or an image", "input.0"),
        ("vl-embedding", ["a", {}], "a text or an image", "input.1"),
        ("vl-embedding", [{"image": "data:image/png;base64,AAAA"}], "image", "input.0"),
        ("vl-embedding", [{"image": "https://example.org/a.png"}], "URLs are off", "input.0"),
        ("vl-embedding", {"image": RED}, "a list of texts", "input"),
    ):
        answer = http.post("/v1/embeddings", json={"model": model, "input": given})
        assert answer.status_code == 400, answer.text
        assert said in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"].startswith(param)
