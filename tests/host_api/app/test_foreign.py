"""Providers that are not ours: a second real server (mlx-vlm's own), and the shapes others answer in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from host_api.app.documents.tagging import by_schema, read
from host_api.app.errors import ApiError
from host_api.app.models.gateway import checked, listed, reason
from tests.support.foreign import CAPABILITIES, CITY, PARIS, add, ask, assign, tag
from tests.support.host_servers import HostProcess, foreign, host
from tests.support.scripted import Scripted, scripted


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[HostProcess]:
    """A host whose assignments the tests change, all on the built-in models at first."""
    with host(tmp_path_factory.mktemp("own"), "--max-answer", "60", data_dir=data_dir) as process:
        process.wait_seeded()
        yield process


@pytest.fixture
def http(own: HostProcess) -> Iterator[httpx.Client]:
    """A client for it; every capability is given back to the model it had."""
    with own.client() as client:
        before = {c["name"]: c["model"]["id"] for c in client.get("/models/capabilities").json()}
        yield client
        for capability, model in before.items():
            assign(client, capability, model)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory, starter_text_dir: Path) -> Iterator[str]:
    """mlx-vlm's own server with the starter model's text part, and beside it a folder that is no whole model."""
    folder = tmp_path_factory.mktemp("vlm")
    broken = folder / "models" / "broken"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text('{"model_type": "llama"}')
    (broken / "model.safetensors").write_text("no weights")
    command = [sys.executable, "-m", "mlx_vlm.server", "--host", "127.0.0.1", "--port", "0"]
    command += ["--model", str(starter_text_dir), "--model-dir", str(folder / "models")]
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    with foreign(folder / "output.txt", command, env) as url:
        yield f"{url}/v1"


def test_a_foreign_server_takes_over_one_capability_and_then_all(
    own: HostProcess, http: httpx.Client, vlm: str, starter_text_dir: Path
) -> None:
    """Text on mlx-vlm's server while the rest stays; the sidecar goes with the last capability and comes back."""
    first = own.sidecar()
    provider, models = add(http, "mlx-vlm", vlm)
    model = models[str(starter_text_dir)]
    moved = assign(http, "text", model)
    assert (moved["happened"], moved["pid"]) == ("kept", first["pid"])
    served = {n: (c["provider"], c["model"]) for n, c in http.get("/status").json()["capabilities"].items()}
    assert served.pop("text") == ("mlx-vlm", str(starter_text_dir))
    assert {p for p, _ in served.values()} == {"Built in"}
    words, errors = ask(http, PARIS)
    assert ("Paris" in words, errors) == (True, [])
    assert tag(http, f"{CITY} ")["result"]["tags"]  # another space: another text, so another task

    # Its grammars need Metal (elsewhere they are a 500): tags come either way.
    assign(http, "structured_output", model)
    task = tag(http, CITY)
    assert task["state"] == "done", task
    assert task["result"]["tags"] == list(dict.fromkeys(task["result"]["tags"]))
    assert task["attempts"] == (1 if sys.platform == "darwin" else 2)

    for capability in CAPABILITIES:
        if capability not in ("text", "structured_output"):
            last = assign(http, capability, None)
    assert (last["happened"], last["phase"]) == ("stopped", "off")
    words, errors = ask(http, PARIS)
    assert ("Paris" in words, errors) == (True, [])
    assert tag(http, f" {CITY}")["state"] == "done"
    assert own.sidecar()["phase"] == "off"
    started = assign(http, "vision", {m["name"]: m["id"] for m in http.get("/models").json()}["starter"])
    assert (started["happened"], started["phase"]) == ("started", "running")
    assert started["pid"] != first["pid"]
    assert http.delete(f"/models/providers/{provider}").status_code == 204


def test_a_model_without_schemas_still_tags(http: httpx.Client, vlm: str, starter_text_dir: Path) -> None:
    """Confirmed to take no schema it can't be assigned to that; with nobody assigned, the text model's words do."""
    provider, models = add(http, "no schemas", vlm)
    model = models[str(starter_text_dir)]
    body = {"capabilities": ["text", "structured_output", "embedding"]}
    results = http.post(f"/models/confirm_capability/{model}", json=body).json()["results"]
    assert results["text"]["ok"] is True
    assert results["embedding"]["ok"] is False
    if sys.platform != "darwin":
        assert results["structured_output"]["ok"] is False
        assert "Metal" in results["structured_output"]["detail"]
        refused = http.post("/models/global_capability/structured_output", json={"model_id": model})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "capability_missing")
    assign(http, "text", model)
    assign(http, "structured_output", None)
    task = tag(http, f"{CITY}\n")
    assert (task["state"], task["attempts"]) == ("done", 1), task
    assert task["result"]["tags"]
    assign(http, "text", None)
    refused = http.post("/tasks/tag", json={"text": "of nobody"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "capability_unassigned")
    http.delete(f"/models/providers/{provider}")


def test_what_a_foreign_server_refuses_is_said_in_its_words(http: httpx.Client, vlm: str) -> None:
    provider, models = add(http, "broken", vlm)
    broken = next(i for name, i in models.items() if name.endswith("/broken"))
    words, errors = ask(http, PARIS, model_id=broken)
    assert words == ""
    assert "400: Failed to load model" in errors[0], errors
    tried = http.post(f"/models/confirm_capability/{broken}", json={"capabilities": ["text"]}).json()
    assert tried["results"]["text"]["ok"] is False
    assert "Failed to load model" in tried["results"]["text"]["detail"]
    http.delete(f"/models/providers/{provider}")


def test_a_server_with_v1_models_alone_is_found_where_it_is(http: httpx.Client) -> None:
    with scripted() as script:
        base = script.url.removesuffix("/v1")
        made = http.post("/models/providers", json={"name": "bare", "base_url": base}).json()
        answer = http.post(f"/models/provider/{made['id']}/discover")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_address")
        assert script.url in answer.json()["error"]["message"]
        http.put(f"/models/providers/{made['id']}", json={"base_url": script.url}).raise_for_status()
        found = http.post(f"/models/provider/{made['id']}/discover").json()
        assert [(m["name"], m["capabilities"]) for m in found] == [("scripted", {})]
        script.models = [{"id": "one"}, {"id": "two", "capabilities": {"vision": True, "tool_use": False}}]
        found = http.post(f"/models/provider/{made['id']}/discover").json()
        assert {m["name"]: (m["present"], m["capabilities"]) for m in found} == {
            "scripted": (False, {}),
            "one": (True, {}),
            "two": (True, {"vision": True}),
        }
        http.delete(f"/models/providers/{made['id']}")


@pytest.fixture
def script(http: httpx.Client) -> Iterator[tuple[Scripted, int]]:
    """A scripted provider and its model's id."""
    with scripted() as found:
        provider, models = add(http, "shapes", found.url)
        yield found, models["scripted"]
        http.delete(f"/models/providers/{provider}")


SCHEMALESS: list[tuple[str, list[Any], int]] = [
    ("refuses the parameter", [(400, {"error": "response_format is not supported"}), "Baking, Food"], 1),
    ("fails over it", [(500, {"detail": "grammar backend missing"}), "Baking, Food"], 2),
    ("answers in words", ["Sure! Bread is a staple.", "Tags: baking; food"], 1),
    ("answers with a list", ['```json\n["Baking", "food", "#baking"]\n```'], 1),
]


@pytest.mark.parametrize(("steps", "attempts"), [s[1:] for s in SCHEMALESS], ids=[s[0] for s in SCHEMALESS])
def test_tags_come_from_a_server_that(
    http: httpx.Client, script: tuple[Scripted, int], steps: list[Any], attempts: int
) -> None:
    provider, model = script
    assign(http, "structured_output", model)
    provider.steps = list(steps)
    task = tag(http, f"{CITY} {json.dumps(steps)}")
    assert (task["state"], task["attempts"]) == ("done", attempts), task
    assert task["result"]["tags"] == ["baking", "food"]
    assert ["response_format" in r for r in provider.requests] == [True, False][: len(steps)]


def test_errors_amid_a_chat_are_said_in_words(http: httpx.Client, script: tuple[Scripted, int]) -> None:
    provider, model = script
    for step, said in (
        ((400, {"detail": "too long"}), "The model's server says 400: too long"),
        ((404, {"error": "model 'x' not found"}), "The model's server says 404: model 'x' not found"),
        ((502, b"<html><title>502 Bad Gateway</title><p>nginx</html>"), "The model's server says 502: 502 Bad Gateway"),
        ([{"content": "half"}, {"error": "out of memory"}], "The model's server says: out of memory"),
    ):
        provider.steps = [step]
        assert ask(http, "Hello", model_id=model)[1] == [said]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "no such model", "type": "x", "code": None}}, "no such model"),
        ({"error": "no such model"}, "no such model"),
        ({"error": {"code": 7}}, '{"code": 7}'),
        ({"object": "error", "message": "no such model", "code": 404}, "no such model"),
        ({"message": "inner", "type": "x"}, "inner"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "not a number"}, {"msg": "also"}]}, "seed: not a number; also"),
        ({"error": {"message": '{"error": {"message": "wrapped"}}'}}, "wrapped"),
        ('{"error": "as text"}', "as text"),
        (b"as bytes", "as bytes"),
        ("Internal  Server\nError", "Internal Server Error"),
        ("<!DOCTYPE html><head><title>Bad\nGateway</title></head>", "Bad Gateway"),
        ("<html><body><h1>Oh no</h1></body></html>", "Oh no"),
        ("x" * 1000, "x" * 299 + "…"),
        ({}, "no reason given"),
        (None, "no reason given"),
        ("", "no reason given"),
    ],
)
def test_a_reason_is_found_in_every_shape(body: object, said: str) -> None:
    assert reason(body) == said


@pytest.mark.parametrize(
    ("status", "content", "shown", "said"),
    [
        (500, b'{"detail": "broke"}', 502, "500: broke"),
        (429, b'{"error": "slow down"}', 429, "429: slow down"),
        (503, b"warming up", 503, "503: warming up"),
        (401, b'{"detail": "no"}', 502, "401: no (check the provider's api_key)"),
        (200, b'{"error": {"message": "with a good status"}}', 502, "200: with a good status"),
        (200, b"<html>", 502, "not JSON"),
        (200, b"[]", 502, "not JSON"),
    ],
)
def test_a_bad_answer_becomes_an_error(status: int, content: bytes, shown: int, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        checked(httpx.Response(status, content=content))
    assert (caught.value.status_code, said in caught.value.message) == (shown, True), caught.value.message


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"data": [{"id": "a"}]}, {"a": []}),
        ({"data": None}, {}),
        ({"data": []}, {}),
        ([{"id": "a", "capabilities": ["text", 3]}], {"a": ["text"]}),
        ({"data": [{"id": "a", "capabilities": {"text": True, "vision": False}}]}, {"a": ["text"]}),
        ({"data": [{"id": "a", "capabilities": "text"}]}, {"a": []}),
        ({"data": [{"name": "a"}]}, None),
        ({"data": {"a": 1}}, None),
        ({"models": []}, None),
    ],
)
def test_models_are_listed_in_every_shape(document: Any, found: dict[str, list[str]] | None) -> None:
    answer = httpx.Response(200, json=document)
    if found is None:
        with pytest.raises(ApiError, match="OpenAI"):
            listed(answer)
    else:
        assert listed(answer) == found


@pytest.mark.parametrize(
    ("said", "tags"),
    [
        ("Bread, Baking, bread, hot oven", ["bread", "baking", "hot oven"]),
        ("Tags: bread, baking", ["bread", "baking"]),
        ("Here are the tags for the text:\n1. Bread\n2) Baking\n- #oven", ["bread", "baking", "oven"]),
        ("Here they are:\n\n- Bread\n- Baking\n\nDo you want more?", ["bread", "baking"]),
        ("art, food, Paris\nsystem\n\nuser\nI'm planning a trip", ["art", "food", "paris"]),
        ("#bread #hot_oven #yeast", ["bread", "hot oven", "yeast"]),
        ('{"tags": ["Bread", "baking"]}', ["bread", "baking"]),
        ('```json\n{"topics": ["Bread"], "more": {"x": "oven"}}\n```', ["bread", "oven"]),
        ("<think>They want, say, five.</think>bread, oven", ["bread", "oven"]),
        ("**Bread**, *baking*.", ["bread", "baking"]),
        ("This text is about how bread is baked from flour.", []),
        ("", []),
        (", ; \n", []),
        ("x" * 41, []),
        (", ".join(f"t{i}" for i in range(20)), [f"t{i}" for i in range(8)]),
    ],
)
def test_tags_are_read_leniently(said: str, tags: list[str]) -> None:
    assert read(said) == tags


@pytest.mark.parametrize(
    ("said", "tags"),
    [
        ('{"tags": ["Bread", "bread"]}', ["bread"]),
        ('{"tags": []}', None),
        ('{"tags": ["a"], "x": 1}', None),
        ('{"tags": "a"}', None),
        ('{"tags": [1]}', None),
        ("[]", None),
        ("bread", None),
    ],
)
def test_an_answer_by_the_schema_is_told_from_others(said: str, tags: list[str] | None) -> None:
    assert by_schema(said) == tags
