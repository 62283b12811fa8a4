"""The Responses API over a real socket, read by the types of OpenAI's own SDK."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from PIL import Image
from pydantic import BaseModel, TypeAdapter

from tests.support.servers import sidecar

CAPITAL = "What is the capital of France?"
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def events_of(http: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    """Return the events of a stream; each goes out under its type and is one of OpenAI's."""
    found = []
    with http.stream("POST", "/v1/responses", json={"temperature": 0, **body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                document = json.loads(line.removeprefix("data: "))
                assert document["type"] == name
                EVENT.validate_python(document)
                found.append(document)
    assert [e["sequence_number"] for e in found] == list(range(len(found)))
    return found


def test_create_and_stream_say_the_same(client: openai.OpenAI, http: httpx.Client) -> None:
    whole = client.responses.create(model="starter", input=CAPITAL, temperature=0)
    assert "Paris" in whole.output_text
    assert whole.status == "completed"
    chat = client.chat.completions.create(
        model="starter", messages=[{"role": "user", "content": CAPITAL}], temperature=0
    )
    assert whole.output_text == chat.choices[0].message.content
    assert whole.usage is not None
    assert chat.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (
        chat.usage.prompt_tokens,
        chat.usage.completion_tokens,
    )
    events = events_of(http, model="starter", input=CAPITAL)
    kinds = [e["type"] for e in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert "".join(e["delta"] for e in events if e["type"].endswith("text.delta")) == whole.output_text
    assert Response.model_validate(events[-1]["response"]).output_text == whole.output_text


def test_the_sdks_stream_helper_and_parse(client: openai.OpenAI) -> None:
    class City(BaseModel):
        name: str
        large: bool

    with client.responses.stream(model="starter", input=CAPITAL, temperature=0) as stream:
        for _ in stream:
            pass
        assert "Paris" in stream.get_final_response().output_text
    parsed = client.responses.parse(model="starter", input="Paris is a city.", text_format=City, temperature=0)
    assert isinstance(parsed.output_parsed, City)


def test_calls_and_their_results(client: openai.OpenAI, http: httpx.Client) -> None:
    question: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked: Any = {"model": "starter", "tools": [WEATHER], "temperature": 0}
    first = client.responses.create(**asked, input=question, tool_choice="required", parallel_tool_calls=False)
    calls = [item for item in first.output if item.type == "function_call"]
    assert len(calls) == 1
    assert json.loads(calls[0].arguments)["city"] in ("Paris", "Rome")
    events = events_of(http, **asked, input=question, tool_choice="required", parallel_tool_calls=False)
    done = next(e for e in events if e["type"] == "response.function_call_arguments.done")
    assert done["arguments"] == calls[0].arguments
    deltas = [e["delta"] for e in events if e["type"] == "response.function_call_arguments.delta"]
    assert "".join(deltas) == calls[0].arguments
    outcome: Any = {"type": "function_call_output", "call_id": calls[0].call_id, "output": "Sunny, 21 degrees."}
    second = client.responses.create(**asked, input=[*question, *first.output, outcome], tool_choice="none")
    assert second.output_text
    kept = client.responses.create(**asked, input=[outcome], previous_response_id=first.id, tool_choice="none")
    assert kept.output_text == second.output_text
    assert kept.usage is not None
    assert second.usage is not None
    assert kept.usage.input_tokens == second.usage.input_tokens


def test_a_tool_that_takes_text(http: httpx.Client) -> None:
    tool = {"type": "custom", "name": "shout"}
    events = events_of(
        http, model="starter", input="Say hello.", tools=[tool], tool_choice={"type": "custom", "name": "shout"},
        max_output_tokens=60,
    )  # fmt: skip
    item = next(e["item"] for e in events if e["type"] == "response.output_item.done")
    assert item["type"] == "custom_tool_call"
    assert isinstance(item["input"], str)


def test_hosted_tools_are_left_out(client: openai.OpenAI) -> None:
    said = client.responses.create(
        model="starter", input=CAPITAL, tools=[{"type": "web_search"}], temperature=0, max_output_tokens=10
    )
    assert "Paris" in said.output_text


def test_pictures_and_files(client: openai.OpenAI) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (220, 20, 20)).save(out, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    note = f"data:text/plain;base64,{base64.b64encode('The code is 4711. Ж'.encode()).decode()}"

    def tokens(*parts: Any) -> int:
        content = [*parts, {"type": "input_text", "text": "What is it?"}]
        answer = client.responses.create(
            model="starter", input=[{"role": "user", "content": content}], max_output_tokens=1
        )
        assert answer.usage is not None
        return answer.usage.input_tokens

    plain = tokens()
    assert tokens({"type": "input_image", "image_url": url, "detail": "auto"}) > plain + 30
    assert tokens({"type": "input_file", "filename": "a.png", "file_data": url}) > plain + 30
    assert plain + 5 < tokens({"type": "input_file", "filename": "note.txt", "file_data": note}) < plain + 60
    with pytest.raises(openai.BadRequestError, match="application/zip"):
        tokens({"type": "input_file", "filename": "a.zip", "file_data": "data:application/zip;base64,UEs="})


def test_what_is_cut_is_incomplete(http: httpx.Client) -> None:
    events = events_of(http, model="starter", input="Tell a long story.", max_output_tokens=5)
    last = events[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="starter", input=CAPITAL, include=["message.output_text.logprobs"], top_logprobs=2, temperature=0
    )
    message = answer.output[0]
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert part.logprobs
    assert b"".join(bytes(t.bytes) for t in part.logprobs).decode().strip() == answer.output_text
    assert all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in part.logprobs)


def test_kept_listed_and_deleted(client: openai.OpenAI) -> None:
    kept = client.responses.create(model="starter", input="Remember the number 12.", max_output_tokens=4)
    assert client.responses.retrieve(kept.id).output_text == kept.output_text
    items = client.responses.input_items.list(kept.id).data
    assert [i.type for i in items] == ["message"]
    client.responses.delete(kept.id)
    for ask in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            ask(kept.id)
    with pytest.raises(openai.NotFoundError, match="send the conversation itself"):
        client.responses.create(model="starter", input="x", previous_response_id=kept.id)
    gone = client.responses.create(model="starter", input="x", store=False, max_output_tokens=1)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(gone.id)


def test_in_the_background(client: openai.OpenAI, http: httpx.Client) -> None:
    begun = client.responses.create(model="starter", input=CAPITAL, background=True, temperature=0)
    assert begun.status in ("queued", "in_progress")
    end = time.monotonic() + 60
    while begun.status in ("queued", "in_progress") and time.monotonic() < end:
        time.sleep(0.1)
        begun = client.responses.retrieve(begun.id)
    assert begun.status == "completed"
    assert "Paris" in begun.output_text
    lines = http.get(f"/v1/responses/{begun.id}", params={"stream": "true", "starting_after": 1}).text.splitlines()
    numbers = [json.loads(line[6:])["sequence_number"] for line in lines if line.startswith("data: ")]
    assert numbers == list(range(2, 2 + len(numbers)))
    long = client.responses.create(model="starter", input="Count to a thousand.", background=True)
    assert client.responses.cancel(long.id).status == "cancelled"
    assert client.responses.retrieve(long.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="store"):
        client.responses.create(model="starter", input="x", background=True, store=False)


def test_a_client_that_leaves_keeps_nothing_and_ends_the_work(http: httpx.Client) -> None:
    def leave() -> None:
        with (
            httpx.Client(base_url=http.base_url, timeout=60) as other,
            other.stream("POST", "/v1/responses", json={"input": "Tell a very long story.", "stream": True}) as answer,
        ):
            next(answer.iter_lines())

    leaving = threading.Thread(target=leave)
    leaving.start()
    leaving.join()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        queue = http.get("/health").json()["queue"]["interactive"]
        if not queue["running"] and not queue["waiting"]:
            return
        time.sleep(0.1)
    raise AssertionError("the answer goes on without its client")


def test_errors_are_openais(client: openai.OpenAI) -> None:
    for change, words in (
        ({"input": []}, "at least one item"),
        ({"input": [{"type": "computer_call"}]}, "items of type"),
        ({"input": "x", "conversation": "c"}, "previous_response_id"),
        ({"input": "x", "truncation": "auto"}, "cut in silence"),
        ({"input": "x", "tools": [{"type": "strange"}]}, "strange"),
        ({"input": "x", "tool_choice": {"type": "file_search"}}, "file_search"),
        ({"input": [{"type": "item_reference", "id": "msg_none"}]}, "msg_none"),
        ({"input": "x", "text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            client.responses.create(model="starter", **change)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="none", input="x")


def test_input_tokens(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="starter", input=CAPITAL).input_tokens
    answer = client.responses.create(model="starter", input=CAPITAL, max_output_tokens=1)
    assert answer.usage is not None
    assert counted == answer.usage.input_tokens


def test_a_folder_keeps_answers_over_a_restart(tmp_path: Path, data_dir: Path) -> None:
    folder = tmp_path / "kept"
    flags = ("--response-dir", str(folder))
    with sidecar(tmp_path / "one", *flags, data_dir=data_dir) as running, running.client() as http:
        first = http.post("/v1/responses", json={"input": CAPITAL, "temperature": 0}).json()
    (file,) = folder.glob("*.json")
    assert file.stat().st_mode & 0o777 == 0o600
    with sidecar(tmp_path / "two", *flags, data_dir=data_dir) as running, running.client() as http:
        assert http.get(f"/v1/responses/{first['id']}").json() == first
        after = {"input": "And of Italy?", "previous_response_id": first["id"], "max_output_tokens": 2}
        assert http.post("/v1/responses", json=after).status_code == 200
        file.write_text("{")
        assert http.get("/v1/responses/../../etc/passwd").status_code == 404
