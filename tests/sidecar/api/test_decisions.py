"""Typed decisions: their probabilities are the model's own, computed here once more the long way."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from sidecar.api.decisions import Question, prompt_of
from sidecar.text.decisions import log_probabilities, tree_of

STATE = "The parcel came late and the box was torn. I want my money back."


def decided(http: httpx.Client, questions: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/decisions", json={"model": "starter", "state": STATE, "questions": questions, **body})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def brute_force(http: httpx.Client, folder: Path, text: str, options: list[str]) -> list[float]:
    """Return each option's log-probability by whole passes over prompt and option, with no cache and no tree."""
    import mlx.core as mx
    from mlx_vlm.utils import load

    model, processor = load(str(folder))
    tokenizer = getattr(processor, "tokenizer", processor)
    messages = [{"role": "user", "content": text}]
    prompt = http.post("/tokenize", json={"model": "starter", "messages": messages}).json()["tokens"]
    out = []
    for option in options:
        tokens = tokenizer.encode(option, add_special_tokens=False)
        embedded = model.get_input_embeddings(mx.array([[*prompt, *tokens]]), None)
        scores = model.language_model(mx.array([[*prompt, *tokens]]), inputs_embeds=embedded.inputs_embeds).logits[0]
        scores = scores.astype(mx.float32)
        logs = scores - mx.logsumexp(scores, axis=-1, keepdims=True)
        out.append(sum(logs[len(prompt) - 1 + i, t].item() for i, t in enumerate(tokens)))
    return out


def test_probabilities_are_those_of_whole_passes(http: httpx.Client, starter_dir: Path) -> None:
    options = ["complaint", "praise", "a question about delivery", "a question"]
    question = {"type": "choice", "instructions": "What kind of letter is this?", "criteria": options}
    found = decided(http, {"kind": question})
    result = found["results"]["kind"]
    assert list(result["probabilities"]) == options
    assert sum(result["probabilities"].values()) == pytest.approx(1)
    assert result["probabilities"][result["value"]] == max(result["probabilities"].values())
    text = f"{STATE}\n\n" + prompt_of("kind", Question.model_validate(question), dict.fromkeys(options, ""))
    logs = brute_force(http, starter_dir, text, options)
    mass = [math.exp(v) for v in logs]
    mass[3] -= mass[2]  # "a question" that does not go on with " about delivery"
    for option, share in zip(options, mass, strict=True):
        assert result["probabilities"][option] == pytest.approx(share / sum(mass), rel=0.05, abs=1e-6)
    assert result["mass"] == pytest.approx(sum(mass), rel=0.05)


def test_kinds_share_one_prompt(http: httpx.Client) -> None:
    questions = {
        "angry": {"type": "bool", "instructions": "Is the writer angry?", "criteria": {"true": "upset"}},
        "urgency": {"type": "score", "instructions": "How urgent is it?", "criteria": ["low", "middle", "high"]},
        "stars": {"type": "score", "min": 0, "max": 10},
    }
    found = decided(http, questions)
    angry, urgency, stars = (found["results"][n] for n in questions)
    assert angry["value"] is (angry["probabilities"]["true"] >= 0.5)
    assert list(urgency["probabilities"]) == ["1", "2", "3"]
    assert 1 <= urgency["mean"] <= 3
    assert list(stars["probabilities"]) == [str(n) for n in range(11)]
    assert found["usage"]["completion_tokens"] == 0
    alone = decided(http, {"angry": questions["angry"]})["results"]["angry"]
    assert alone["probabilities"]["true"] == pytest.approx(angry["probabilities"]["true"], rel=0.02)


def test_pictures_are_decided_about(http: httpx.Client) -> None:
    sink = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(sink, "PNG")
    url = "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
    body = {"model": "tiny-vl", "images": [url], "state": None}
    found = decided(http, {"what": {"criteria": {"cat": "an animal", "car": None}}}, **body)
    assert set(found["results"]["what"]["probabilities"]) == {"cat", "car"}
    assert found == decided(http, {"what": {"criteria": {"cat": "an animal", "car": None}}}, **body)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"criteria": ["one"]}, "2 to 256 different options"),
        ({"criteria": ["a", "a"]}, "different"),
        ({"type": "bool", "criteria": ["x", "y"]}, "what true and false mean"),
        ({"type": "score", "min": 5, "max": 5}, "2 to 101 levels"),
        ({"type": "score", "criteria": {"a": "b"}}, "give a list"),
        ({"type": "other"}, "type"),
        ({"criteria": ["a", ""]}, "criteria"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(http: httpx.Client, question: dict[str, Any], said: str) -> None:
    answer = http.post("/v1/decisions", json={"model": "starter", "state": STATE, "questions": {"q": question}})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_what_a_longer_option_has_is_not_the_shorter_ones() -> None:
    options = [(1,), (1, 2), (1, 2, 3), (4,), (1, 5)]
    edges = tree_of(options)
    assert edges == {(): [1, 4], (1,): [2, 5], (1, 2): [3]}
    known = {(): {1: math.log(0.5), 4: math.log(0.25)}, (1,): {2: math.log(0.5), 5: math.log(0.25)}}
    found = log_probabilities(options, known | {(1, 2): {3: math.log(0.5)}})
    assert [math.exp(v) for v in found] == pytest.approx([0.125, 0.125, 0.125, 0.25, 0.125])
    assert log_probabilities([(1,), (2,)], {(): {1: -math.inf, 2: 0.0}}) == [-math.inf, 0.0]


def test_documents_are_ordered_by_a_chat_model_and_by_embeddings(http: httpx.Client) -> None:
    documents = ["Bread is baked in an oven.", "Paris is the capital of France.", {"text": "Cats sleep a lot."}]
    body = {"query": "What is the capital of France?", "documents": documents, "top_n": 2, "return_documents": True}
    found = http.post("/v1/rerank", json={"model": "minilm", **body}).json()
    assert found["meta"] == {"method": "embedding"}
    assert found["results"][0]["index"] == 1
    assert found["results"][0]["document"] == {"text": documents[1]}
    assert len(found["results"]) == 2
    by_chat = http.post("/v1/rerank", json={"model": "starter", **body, "top_n": None}).json()
    assert by_chat["meta"] == {"method": "decision"}
    scores = [r["relevance_score"] for r in by_chat["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= s <= 1 for s in scores)
    assert sorted(r["index"] for r in by_chat["results"]) == [0, 1, 2]
    empty = http.post("/v1/rerank", json={"model": "starter", "query": "x", "documents": ["a", {"text": ""}]})
    assert empty.json()["error"]["param"] == "documents.1"


def test_pictures_are_ranked_where_the_model_sees(http: httpx.Client) -> None:
    urls = []
    for seed in (20, 60):
        sink = io.BytesIO()
        Image.effect_noise((64, 64), seed).convert("RGB").save(sink, "PNG")
        urls.append("data:image/png;base64," + base64.b64encode(sink.getvalue()).decode())
    body: dict[str, Any] = {"query": "noise", "documents": [{"image": u} for u in urls]}
    found = http.post("/v1/rerank", json={"model": "tiny-vl", **body}).json()
    assert sorted(r["index"] for r in found["results"]) == [0, 1]
    refused = http.post("/v1/rerank", json={"model": "minilm", **body})
    assert refused.json()["error"]["code"] == "image_input_not_supported"
