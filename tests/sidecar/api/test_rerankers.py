"""Cross-encoders in ``/v1/rerank``: scores are those of mlx-vlm's own reranking."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.backend import folder
from sidecar.cli import check

QUERY = "What is the capital of France?"
DOCUMENTS = [
    "Bread is baked in an oven.",
    "Paris is the capital of France.",
    "Cats sleep a lot, and when they don't, they hunt what moves, or what might.",
    *(f"Number {n} comes before number {n + 1}." for n in range(9)),  # more than one unit of work
]


@pytest.fixture(scope="module")
def ranker(model_dir: Path) -> Iterator[Path]:
    """A BERT with one label and random weights, with MiniLM's tokenizer, among the server's models."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_vlm.models.bert import ModelConfig
    from mlx_vlm.models.bert.bert import SequenceClassificationModel

    path = model_dir / "ranker"
    path.mkdir()
    for file in (model_dir / "minilm").glob("*token*"):
        shutil.copy(file, path)
    for file in (model_dir / "minilm").glob("vocab*"):
        shutil.copy(file, path)
    config: dict[str, Any] = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "vocab_size": 30522,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "id2label": {"0": "LABEL_0"},
        "pad_token_id": 0,
    }
    (path / "config.json").write_text(json.dumps(config))
    mx.random.seed(7)
    model = SequenceClassificationModel(ModelConfig.from_dict({**config, "num_labels": 1}))
    flat: Any = tree_flatten(model.parameters())
    loud = {name: value * 8 if value.ndim > 1 else value for name, value in flat}
    mx.save_safetensors(str(path / "model.safetensors"), loud, metadata={"format": "mlx"})
    yield path
    shutil.rmtree(path)


def own_scores(path: Path) -> tuple[list[float], int]:
    """Return mlx-vlm's own scores of the documents, and their tokens."""
    from mlx_vlm.reranker_loader import load_reranker
    from mlx_vlm.server.reranking import RerankItem, _score_sequence_batch

    model, processor = load_reranker(str(path))
    found = _score_sequence_batch(
        model, processor, model.config, RerankItem(text=QUERY), [RerankItem(text=d) for d in DOCUMENTS]
    )
    scores, tokens = found
    return scores, tokens


def test_scores_are_mlx_vlms_own(http: httpx.Client, ranker: Path) -> None:
    want, _ = own_scores(ranker)
    assert max(want) - min(want) > 0.01, "the documents make no difference, so that nothing is shown"
    found = http.post("/v1/rerank", json={"model": "ranker", "query": QUERY, "documents": DOCUMENTS}).json()
    assert found["meta"] == {"method": "cross-encoder"}
    got = {r["index"]: r["relevance_score"] for r in found["results"]}
    assert [got[i] for i in range(len(DOCUMENTS))] == pytest.approx(want, abs=1e-5)
    order = [r["index"] for r in found["results"]]
    assert order == sorted(got, key=lambda i: (-got[i], i))
    assert found["usage"]["prompt_tokens"] > 100


def test_what_it_can_not_do_is_refused_in_words(http: httpx.Client, ranker: Path) -> None:
    body: dict[str, Any] = {"model": "ranker", "query": QUERY, "documents": ["a"]}
    for change, said in (
        ({"instruction": "Look for bread."}, "takes none"),
        ({"documents": ["word " * 200]}, "tokens; this model takes 128"),
        ({"documents": [{"image": "data:image/png;base64,AAAA"}]}, "takes no images"),
    ):
        answer = http.post("/v1/rerank", json=body | change)
        assert answer.status_code == 400, answer.text
        assert said in answer.json()["error"]["message"]
    vectors = http.post("/v1/embeddings", json={"model": "ranker", "input": "x"})
    assert vectors.status_code == 400
    assert "/v1/rerank" in vectors.json()["error"]["message"]


def test_a_check_compares_scores(ranker: Path) -> None:
    from sidecar.backend import loader

    loaded = loader.load(ranker, lambda _: None)
    found, off = check._vectors(loaded)
    assert found["texts ranked together"].startswith("same: scores at most")
    assert not off


def test_cross_encoders_are_told_by_their_one_label() -> None:
    one = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    assert folder.is_ranker(one)
    assert not folder.is_ranker(one | {"id2label": {"0": "no", "1": "yes"}})
    assert not folder.is_ranker(one | {"architectures": ["BertModel"]})
    assert not folder.is_ranker(one | {"model_type": "qwen3"})
