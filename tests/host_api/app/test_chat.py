"""``/chat/agent-stream`` and the stored conversations, over a real service, sidecar and model."""

from __future__ import annotations

import base64
import json
import os
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from host_api.app.models.probes import square_png
from tests.support.host_servers import HostProcess
from tests.support.scripted import Scripted, call, scripted
from tests.support.servers import wait_for

PARIS = "What is the capital of France?"
STORY = "Tell me a very long story about a dragon."


def user(*parts: Any) -> dict[str, Any]:
    found = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"id": uuid.uuid4().hex, "role": "user", "parts": found}


def body(*messages: dict[str, Any], **extra: Any) -> dict[str, Any]:
    return {"trigger": "submit-message", "id": uuid.uuid4().hex, "messages": list(messages), **extra}


def chunks(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


def chat(http: httpx.Client, request: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", "/chat/agent-stream", json=request) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(chunks(answer))


def text(events: list[dict[str, Any]]) -> str:
    return "".join(e["delta"] for e in events if e["type"] == "text-delta")


@pytest.fixture(scope="module")
def script(running: HostProcess) -> Iterator[tuple[Scripted, int]]:
    """A scripted provider known to the service, and its model's id."""
    with scripted() as found, running.client() as http:
        made = http.post("/models/providers", json={"name": "scripted", "base_url": found.url}).json()
        model = http.post(f"/models/provider/{made['id']}/discover").json()[0]
        other = {m["name"]: m["id"] for m in http.get("/models").json()}
        http.post("/models/global_capability/tool_use?wait=false", json={"model_id": model["id"]})
        http.post("/models/global_capability/text?wait=false", json={"model_id": model["id"]})
        yield found, model["id"]
        for capability in ("tool_use", "text"):
            http.post(f"/models/global_capability/{capability}", json={"model_id": other["starter"]})
        http.delete(f"/models/providers/{made['id']}")


def test_the_starter_model_answers_and_the_conversation_is_kept(http: httpx.Client) -> None:
    request = body(user(PARIS))
    events = chat(http, request)
    assert [e["type"] for e in events][:3] == ["start", "start-step", "text-start"]
    assert events[-1]["type"] == "finish"
    assert "Paris" in text(events)
    stored = http.get(f"/chat/sessions/{request['id']}").json()
    assert stored["title"] == PARIS
    assert [m["role"] for m in stored["messages"]] == ["user", "assistant"]
    answer = stored["messages"][1]
    assert answer["id"] == events[0]["messageId"]
    assert "".join(p["text"] for p in answer["parts"] if p["type"] == "text") == text(events)
    again = {**request, "messages": [*stored["messages"], user("And of Italy?")]}
    assert "Rome" in text(chat(http, again))
    assert len(http.get(f"/chat/sessions/{request['id']}").json()["messages"]) == 4


def test_a_chat_goes_through_the_sidecar(http: httpx.Client, running: HostProcess) -> None:
    def served() -> float:
        record = json.loads((running.folder / "state" / "sidecar.pid").read_text().splitlines()[1])
        headers = {"authorization": f"Bearer {record['token']}"}
        metrics = httpx.get(f"http://127.0.0.1:{record['port']}/metrics", headers=headers).text
        lines = [x for x in metrics.splitlines() if x.startswith("mlx_sidecar_http_requests_total{")]
        return sum(float(x.split()[-1]) for x in lines if "/v1/chat/completions" in x)

    before = served()
    chat(http, body(user(PARIS)))
    wait_for(lambda: served() == before + 1)


def test_conversations_are_listed_renamed_and_deleted(http: httpx.Client) -> None:
    request = body(user("What is the capital of France, the country in Europe whose flag is blue, white and red?"))
    chat(http, request)
    url = f"/chat/sessions/{request['id']}"
    assert http.get("/chat/sessions").json()[0]["id"] == request["id"]
    assert http.get(url).json()["title"].endswith("…")
    assert http.patch(url, json={"title": "  Greetings "}).json()["title"] == "Greetings"
    assert http.patch(url, json={"title": " "}).status_code == 422
    assert http.delete(url).status_code == 204
    assert http.get(url).json()["error"]["code"] == "session_not_found"
    assert http.delete(url).status_code == 404


def test_what_is_not_a_request_is_refused_in_words(http: httpx.Client) -> None:
    for wrong in (b"", b"{", b"{}", json.dumps(body()).encode(), json.dumps(body(user("x"), model_id="x")).encode()):
        answer = http.post("/chat/agent-stream", content=wrong)
        assert answer.status_code == 422, wrong
        assert answer.json()["error"]["code"] == "invalid_request"
    assert http.post("/chat/agent-stream", json=body(user("x"), model_id=99999)).status_code == 404


def test_an_image_needs_a_vision_model_and_reaches_it(http: httpx.Client) -> None:
    image = {
        "type": "file",
        "mediaType": "image/png",
        "url": "data:image/png;base64," + base64.b64encode(square_png()).decode(),
    }
    request = body(user("What is in the image?", image))
    before = http.get("/models/global_capability/vision").json()["model"]["id"]
    http.post("/models/global_capability/vision?wait=false", json={"model_id": None})
    refused = http.post("/chat/agent-stream", json=request)
    http.post("/models/global_capability/vision?wait=false", json={"model_id": before})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "capability_unassigned")
    said = text(chat(http, request)).lower()
    assert "red" in said, said
    assert "square" in said, said


def test_an_image_address_is_never_fetched(http: httpx.Client) -> None:
    image = {"type": "file", "mediaType": "image/png", "url": "http://127.0.0.1:9/x.png"}
    models = {m["name"]: m["id"] for m in http.get("/models").json()}
    events = chat(http, body(user(PARIS, image), model_id=models["starter"]))
    assert "Paris" in text(events)


def test_a_client_that_leaves_stops_nothing_and_stop_frees_the_engine(http: httpx.Client, running: HostProcess) -> None:
    def rows() -> int:
        queue = running.sidecar()["queue"]
        return int(queue["interactive"]["running"])

    wait_for(lambda: rows() == 0)
    request = body(user(STORY))
    with http.stream("POST", "/chat/agent-stream", json=request) as answer:
        source = chunks(answer)
        while next(source)["type"] != "text-delta":
            pass
        assert rows() == 1
    assert http.get(f"/chat/sessions/{request['id']}").json()["running"] is True
    assert rows() == 1
    assert http.post(f"/chat/sessions/{request['id']}/stop").json() == {"stopped": 1}
    wait_for(lambda: rows() == 0, 20)
    stored = http.get(f"/chat/sessions/{request['id']}").json()
    assert [m["metadata"]["state"] for m in stored["messages"]] == ["done", "stopped"]
    assert stored["messages"][1]["parts"][-1]["text"]
    assert http.post(f"/chat/sessions/{request['id']}/stop").json() == {"stopped": 0}


def test_a_tool_call_runs_and_its_result_goes_back(http: httpx.Client, script: tuple[Scripted, int]) -> None:
    provider, _ = script
    provider.steps = [
        [{"reasoning_content": "I should compute."}, call("calculate", '{"expression": "12*37"}')],
        [{"content": "It is "}, {"content": "444."}],
    ]
    provider.requests.clear()
    request = body(user("What is 12*37?"))
    events = chat(http, request)
    types = [e["type"] for e in events]
    assert "reasoning-delta" in types
    given = next(e for e in events if e["type"] == "tool-input-available")
    assert (given["toolName"], given["input"]) == ("calculate", {"expression": "12*37"})
    assert next(e for e in events if e["type"] == "tool-output-available")["output"] == "444"
    assert text(events) == "It is 444."
    assert {t["function"]["name"] for t in provider.requests[0]["tools"]} == {"current_time", "calculate"}
    assert provider.requests[1]["messages"][-1]["content"] == "444"
    stored = http.get(f"/chat/sessions/{request['id']}").json()["messages"]
    assert [m["role"] for m in stored] == ["user", "assistant"]
    tool = next(p for p in stored[1]["parts"] if p["type"] == "tool-calculate")
    assert (tool["state"], tool["output"]) == ("output-available", "444")
    provider.steps = [[{"content": "You are welcome."}]]
    assert text(chat(http, {**request, "messages": [*stored, user("Thanks")]})) == "You are welcome."
    roles = [m["role"] for m in provider.requests[2]["messages"] if m["role"] not in ("system", "developer")]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_tools_stay_away_when_not_wanted(http: httpx.Client, script: tuple[Scripted, int]) -> None:
    provider, _ = script
    provider.steps = [[{"content": "Hello"}]]
    provider.requests.clear()
    chat(http, body(user("Hi"), tools=False))
    assert "tools" not in provider.requests[0]


def test_a_model_that_only_calls_tools_is_stopped(http: httpx.Client, script: tuple[Scripted, int]) -> None:
    provider, _ = script
    provider.steps = [[call("calculate", '{"expression": "1"}')] for _ in range(20)]
    events = chat(http, body(user("Loop")))
    error = next(e for e in events if e["type"] == "error")
    assert "kept calling tools" in error["errorText"]
    provider.steps = []


def test_a_provider_error_is_an_error_part_in_words(http: httpx.Client, script: tuple[Scripted, int]) -> None:
    provider, _ = script
    provider.steps = [500]
    events = chat(http, body(user("Hi")))
    error = next(e for e in events if e["type"] == "error")
    assert error["errorText"] == "The model's server says 500: the script says no"


def test_a_sidecar_killed_mid_answer_is_an_error_part_and_the_next_turn_works(
    http: httpx.Client, running: HostProcess
) -> None:
    first = running.wait_sidecar()
    starter = {m["name"]: m["id"] for m in http.get("/models").json()}["starter"]
    request = body(user(STORY), model_id=starter)
    with http.stream("POST", "/chat/agent-stream", json=request) as answer:
        source = chunks(answer)
        while next(source)["type"] != "text-delta":
            pass
        os.kill(first["pid"], signal.SIGKILL)
        rest = list(source)
    error = next(e for e in rest if e["type"] == "error")
    assert "send that again" in error["errorText"]
    wait_for(lambda: running.sidecar()["instance_id"] not in (None, first["instance_id"]), 60)
    assert "Paris" in text(chat(http, body(user(PARIS), model_id=starter)))
