"""vLLM's and llama.cpp's further fields, over a real socket with real weights."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from sidecar.api.chat import conversation_of
from sidecar.api.schemas import ChatRequest
from sidecar.config import Settings
from sidecar.engine.messages import ModelInfo, Tier
from sidecar.errors import ApiError
from tests.support.benches import Bench

CHAT = "/v1/chat/completions"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
OBJECT = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
}
GBNF = 'root ::= "<" word ">" \nword ::= [a-z]+ ("-" [a-z]+)?\n'
LARK = '%llguidance {}\nstart: "<" WORD ">"\nWORD: /[a-z]+/\n'


def chat(http: httpx.Client, **change: Any) -> dict[str, Any]:
    """The first choice of a greedy answer to a question about France."""
    body = {"model": "starter", "messages": FRANCE, "temperature": 0, "max_tokens": 24} | change
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    return {**answer.json()["choices"][0], "usage": answer.json()["usage"]}


def complete(http: httpx.Client, **change: Any) -> dict[str, Any]:
    body = {"model": "starter", "prompt": "The capital of France is", "temperature": 0, "max_tokens": 24} | change
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return {**answer.json()["choices"][0], "usage": answer.json()["usage"]}


def refused(http: httpx.Client, path: str = CHAT, **change: Any) -> dict[str, Any]:
    start = {"messages": FRANCE} if path == CHAT else {"prompt": "x"}
    answer = http.post(path, json={"model": "starter", "max_tokens": 8, **start, **change})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_an_end_is_put_off_and_left_out(http: httpx.Client) -> None:
    plain = chat(http)
    assert plain["message"]["content"] == PARIS
    later = chat(http, min_tokens=12)
    assert later["message"]["content"].startswith(PARIS)
    assert later["usage"]["completion_tokens"] >= 12
    never = chat(http, ignore_eos=True)
    assert (never["finish_reason"], never["usage"]["completion_tokens"]) == ("length", 24)
    assert chat(http, ignore_eos=True, seed=4, temperature=1)["usage"]["completion_tokens"] == 24
    assert chat(http, min_tokens=0, ignore_eos=False, stop_token_ids=[])["message"] == plain["message"]


def test_stop_strings_wait_for_the_least_tokens(http: httpx.Client) -> None:
    assert chat(http, stop="capital")["message"]["content"] == "The "
    later = chat(http, stop=["capital", "Paris"], min_tokens=3)
    assert later["message"]["content"] == "The capital of France is "
    assert later["finish_reason"] == "stop"
    assert "min_tokens" in refused(http, min_tokens=9)["message"]


def test_stop_tokens_end_an_answer_unseen(http: httpx.Client) -> None:
    paris = http.post("/tokenize", json={"model": "starter", "prompt": " Paris"}).json()["tokens"]
    found = chat(http, stop_token_ids=paris)
    assert (found["message"]["content"], found["finish_reason"]) == ("The capital of France is", "stop")
    assert complete(http, stop_token_ids=paris)["text"] == ""
    assert chat(http, stop_token_ids=paris, min_tokens=6)["message"]["content"] != found["message"]["content"]
    assert refused(http, stop_token_ids=[10**9])["param"] == "stop_token_ids"


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({"guided_json": OBJECT}, r'\{"city": ".*", "large": (true|false)\}'),
        ({"guided_json": json.dumps(OBJECT)}, r'\{"city": ".*", "large": (true|false)\}'),
        ({"json_schema": OBJECT}, r'\{"city": ".*", "large": (true|false)\}'),
        ({"structured_outputs": {"json": OBJECT}}, r'\{"city": ".*", "large": (true|false)\}'),
        ({"guided_regex": r"^[A-Z]{3}/\d{2}$"}, r"[A-Z]{3}/\d{2}"),
        ({"structured_outputs": {"regex": r"[A-Z]{3}/\d{2}"}}, r"[A-Z]{3}/\d{2}"),
        ({"guided_choice": ["Lyon", "Lyon or Nice"]}, "Lyon|Lyon or Nice"),
        ({"structured_outputs": {"choice": ["Lyon", "Nice"]}}, "Lyon|Nice"),
        ({"grammar": GBNF}, "<[a-z]+(-[a-z]+)?>"),
        ({"guided_grammar": LARK}, "<[a-z]+>"),
        ({"structured_outputs": {"grammar": GBNF}}, "<[a-z]+(-[a-z]+)?>"),
    ],
)
def test_words_are_held_to_what_is_asked(http: httpx.Client, change: dict[str, Any], holds: str) -> None:
    found = [chat(http, max_tokens=40, **change)["message"]["content"], complete(http, max_tokens=40, **change)["text"]]
    warm = {"temperature": 1.5, "seed": 7, "max_tokens": 200} | change
    found += [chat(http, **warm)["message"]["content"]]
    assert chat(http, **warm)["message"]["content"] == found[-1]
    for text in found:
        assert re.fullmatch(holds, text), text


def test_free_grammars_say_nothing(http: httpx.Client) -> None:
    neutral = {"grammar": "", "guided_json": None, "structured_outputs": {}, "response_format": {"type": "text"}}
    assert chat(http, **neutral)["message"]["content"] == PARIS
    assert chat(http, min_tokens=4, guided_choice=["a"])["message"]["content"] == "a"  # a grammar that is through ends


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_what_can_not_be_held_is_refused_by_name(http: httpx.Client, path: str) -> None:
    for change, param in (
        ({"grammar": "root ::= ("}, "grammar"),
        ({"guided_grammar": "start: nope"}, "guided_grammar"),
        ({"grammar": "root ::= " + "(" * 3000 + '"a"' + ")" * 3000}, "grammar"),
        ({"guided_regex": "(?=x)y"}, "guided_regex"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": {"type": "object", "not": {}}}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    ):
        assert refused(http, path, **change)["param"] == param, change


def test_a_call_that_must_come_leaves_no_words_to_hold(http: httpx.Client) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": OBJECT}}
    found = chat(http, tools=[tool], tool_choice="required", parallel_tool_calls=False, response_format=form)
    assert [c["function"] for c in found["message"]["tool_calls"]] == [{"name": "look", "arguments": "{}"}]
    assert found["finish_reason"] == "tool_calls"


def test_pictures_have_as_many_pixels_as_asked(http: httpx.Client) -> None:
    sink = io.BytesIO()
    Image.linear_gradient("L").resize((1200, 800)).convert("RGB").save(sink, "PNG")
    url = "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()

    def tokens(detail: str | None = None, part: dict[str, Any] | None = None, **change: Any) -> int:
        image = {"url": url} | ({"detail": detail} if detail else {})
        content = [{"type": "image_url", "image_url": image, **(part or {})}, {"type": "text", "text": "What?"}]
        body = {"model": "tiny-vl", "messages": [{"role": "user", "content": content}], "max_tokens": 1, **change}
        answer = http.post(CHAT, json=body)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["usage"]["prompt_tokens"])

    plain = tokens()
    assert tokens("auto") == tokens("high") == tokens("original") == plain
    small = tokens(mm_processor_kwargs={"max_pixels": 64 * 64})
    assert small < plain
    assert small == tokens(part={"max_pixels": 64 * 64}) == tokens(max_pixels=64 * 64)
    assert refused(http, mm_processor_kwargs={"fps": 2})["param"] == "mm_processor_kwargs.fps"


@pytest.mark.parametrize(
    ("part", "body", "pixels"),
    [
        ({"detail": "low"}, {}, (0, 512 * 512)),
        ({"detail": "high"}, {}, (0, 0)),
        ({}, {"min_pixels": 5, "max_pixels": 9}, (5, 9)),
        ({"detail": "low"}, {"max_pixels": 9}, (0, 9)),
        ({}, {"mm_processor_kwargs": {"min_pixels": 7}}, (7, 0)),
    ],
)
def test_a_pictures_limits_come_from_the_nearest_field(
    part: dict[str, Any], body: dict[str, Any], pixels: tuple[int, int]
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,x", **part}}
    asked = ChatRequest.model_validate({"messages": [{"role": "user", "content": [image]}], **body})
    found = conversation_of(Settings(), ModelInfo(path="x", kind="chat", sees=True), asked).pictures[0]
    assert (found.min_pixels, found.max_pixels) == pixels
    crossed = ChatRequest.model_validate({**asked.model_dump(exclude_none=True), "min_pixels": 10, "max_pixels": 9})
    with pytest.raises(ApiError, match="above"):
        conversation_of(Settings(), ModelInfo(path="x", kind="chat", sees=True), crossed)


def test_a_prompts_own_tokens_have_scores(http: httpx.Client) -> None:
    text = "The capital of France is Paris, said he."
    ids = http.post("/tokenize", json={"model": "starter", "prompt": text}).json()["tokens"]
    found = complete(http, prompt=text, echo=True, logprobs=2, max_tokens=0)
    scores = found["logprobs"]
    assert (found["text"], found["finish_reason"], found["usage"]["completion_tokens"]) == (text, "length", 0)
    assert "".join(scores["tokens"]) == text
    assert len(scores["tokens"]) == len(ids)
    assert scores["token_logprobs"][0] is scores["top_logprobs"][0] is None
    assert [text[at:][: len(t)] for at, t in zip(scores["text_offset"], scores["tokens"], strict=True)] == scores[
        "tokens"
    ]
    for token, value, top in list(zip(scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True))[
        1:
    ]:
        assert top[token] == value
        assert 2 <= len(top) <= 3
    # What the model would say itself at each place is what its answer's scores say.
    for at in (5, len(ids) - 2):
        said = complete(http, prompt=ids[:at], logprobs=2, max_tokens=1)["logprobs"]
        best = max(scores["top_logprobs"][at].items(), key=lambda item: item[1])
        assert said["tokens"][0] == best[0]
        assert said["token_logprobs"][0] == pytest.approx(best[1], abs=1e-3)
    tokens = complete(http, prompt=ids, echo=True, logprobs=2, max_tokens=0)["logprobs"]
    assert tokens["token_logprobs"][1:] == pytest.approx(scores["token_logprobs"][1:], abs=1e-3)


def test_scored_prompts_take_turns_and_need_room(model_dir: Path, tmp_path: Path, monkeypatch: Any) -> None:
    bench = Bench(model_dir / "tiny-vl", tmp_path)
    try:
        tokens = bench.prompt("A long way. " * 40).tokens
        counts: list[int] = []
        with bench.held():
            futures = [bench.engine.score(bench.path, tokens, 1, tier) for tier in (Tier.BATCH,) * 3]
            futures.append(bench.engine.score(bench.path, tokens, 1, Tier.INTERACTIVE))
            bench.engine._put(lambda: counts.append(len(bench.engine._embeddings.units())))
        found = [future.result(60) for future in futures]
        assert counts == [2]  # one of each tier: each prompt has a whole cache
        assert all([t.logprob for t in one] == pytest.approx([t.logprob for t in found[0]], abs=1e-3) for one in found)
        for what in ("free", "alone"):  # who runs alone may use the margins
            monkeypatch.setattr(bench.core.room.ledger, what, lambda: 0)
        with pytest.raises(ApiError, match="MiB") as refused:
            bench.engine.score(bench.path, tokens, 1, Tier.BATCH).result(60)
        assert refused.value.status_code == 503
        assert bench.on_engine(lambda: len(bench.engine._embeddings)) == 0
    finally:
        bench.engine.stop()


def test_echoed_scores_stream_and_come_before_the_answers(http: httpx.Client) -> None:
    change = {"prompt": ["The capital of France is", "x"], "echo": True, "logprobs": 0, "max_tokens": 2, "n": 2}
    body = {"model": "starter", "temperature": 0, **change}
    whole = http.post("/v1/completions", json=body).json()["choices"]
    assert [c["text"].startswith(p) for c, p in zip(whole, ["The capital"] * 2 + ["x"] * 2, strict=True)] == [True] * 4
    text, scores = [""] * 4, [[] for _ in range(4)]  # type: ignore[var-annotated]
    with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text[choice["index"]] += choice["text"]
                    scores[choice["index"]] += (choice["logprobs"] or {"tokens": []})["tokens"]
    assert text == [c["text"] for c in whole]
    assert scores == [c["logprobs"]["tokens"] for c in whole]
    assert all(set(top) == {t} for c in whole for t, top in list(
        zip(c["logprobs"]["tokens"], c["logprobs"]["top_logprobs"], strict=True))[1:])  # fmt: skip
    assert complete(http, max_tokens=0)["text"] == ""


def test_a_thought_has_as_many_tokens_as_it_may(http: httpx.Client) -> None:
    """A model that does not think keeps to any budget."""
    for change in ({"thinking_budget": 5}, {"thinking_token_budget": 0}, {"reasoning": {"max_tokens": 9}}):
        assert chat(http, **change)["message"]["content"] == PARIS
    assert refused(http, thinking_budget=-2)["param"] == "thinking_budget"
