"""The Messages API over a real socket, read by the types of Anthropic's own SDK."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from PIL import Image

from tests.support.servers import Sidecar, sidecar

CAPITAL: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def claude(server: Sidecar) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120) as sdk:
        yield sdk


def test_create_says_what_chat_says(claude: Any, client: openai.OpenAI) -> None:
    answer = claude.messages.create(model="starter", max_tokens=40, system="You are kind.", messages=CAPITAL)
    chat = client.chat.completions.create(
        model="starter",
        max_tokens=40,
        messages=[{"role": "system", "content": "You are kind."}, *CAPITAL],
    )
    (block,) = answer.content
    assert block.type == "text"
    assert block.text == chat.choices[0].message.content
    assert answer.stop_reason == {"stop": "end_turn", "length": "max_tokens"}[chat.choices[0].finish_reason]
    assert chat.usage is not None
    assert answer.usage.output_tokens == chat.usage.completion_tokens
    read = answer.usage.cache_read_input_tokens or 0
    assert answer.usage.input_tokens + read == chat.usage.prompt_tokens
    system: Any = [{"type": "text", "text": "You are kind.", "cache_control": {"type": "ephemeral"}}]
    blocks = claude.messages.create(model="starter", max_tokens=40, system=system, messages=CAPITAL)
    assert blocks.content == answer.content


def test_a_stream_says_the_same(claude: Any) -> None:
    whole = claude.messages.create(model="starter", max_tokens=40, messages=CAPITAL)
    kinds = []
    with claude.messages.stream(model="starter", max_tokens=40, messages=CAPITAL) as stream:
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_message()
    assert [b.text for b in final.content] == [b.text for b in whole.content]
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"


def test_calls_and_their_results(claude: Any) -> None:
    question: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked: Any = {"model": "starter", "max_tokens": 60, "tools": [WEATHER]}
    force: Any = {"type": "any", "disable_parallel_tool_use": True}
    first = claude.messages.create(**asked, messages=question, tool_choice=force)
    (use,) = first.content
    assert use.type == "tool_use"
    assert use.input["city"] in ("Paris", "Rome")
    assert first.stop_reason == "tool_use"
    with claude.messages.stream(**asked, messages=question, tool_choice=force) as stream:
        (streamed,) = stream.get_final_message().content
    assert streamed.type == "tool_use"
    assert streamed.input == use.input
    named = claude.messages.create(**asked, messages=question, tool_choice={"type": "tool", "name": "get_weather"})
    assert [b.type for b in named.content] == ["tool_use"]
    for content in ("Sunny.", [{"type": "text", "text": "Sunny."}]):
        result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": content}
        after: Any = [
            *question,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result, {"type": "text", "text": "Say it in a word."}]},
        ]
        second = claude.messages.create(**asked, messages=after, tool_choice={"type": "none"})
        assert second.content[0].type == "text"


def test_pictures_and_documents(claude: Any) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (220, 20, 20)).save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}

    def tokens(*blocks: Any) -> int:
        content = [*blocks, {"type": "text", "text": "What is it?"}]
        usage = claude.messages.create(
            model="starter", max_tokens=1, messages=[{"role": "user", "content": content}]
        ).usage
        return int(usage.input_tokens) + (usage.cache_read_input_tokens or 0)

    plain = tokens()
    assert tokens({"type": "image", "source": source}) > plain + 30
    text = {"type": "text", "media_type": "text/plain", "data": "The code is 4711."}
    assert plain + 5 < tokens({"type": "document", "title": "note", "source": text}) < plain + 60
    no_pdf = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"no PDF").decode()}
    with pytest.raises(anthropic.BadRequestError, match="application/pdf"):
        tokens({"type": "document", "source": no_pdf})


def test_ends(claude: Any) -> None:
    cut = claude.messages.create(model="starter", max_tokens=3, messages=CAPITAL)
    assert cut.stop_reason == "max_tokens"
    stopped = claude.messages.create(model="starter", max_tokens=40, messages=CAPITAL, stop_sequences=["capital of"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "capital of")
    with claude.messages.stream(
        model="starter", max_tokens=40, messages=CAPITAL, stop_sequences=["capital of"]
    ) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "capital of")
    assert final.content[0].text == stopped.content[0].text
    huge = claude.messages.create(model="starter", max_tokens=1_000_000, messages=CAPITAL)
    assert huge.stop_reason == "end_turn"


def test_an_answer_with_a_schema(claude: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Paris", "Rome"]}},
        "required": ["name"],
        "additionalProperties": False,
    }
    answer = claude.messages.create(
        model="starter",
        max_tokens=40,
        messages=CAPITAL,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    (block,) = answer.content
    assert block.type == "text"
    assert json.loads(block.text)["name"] in ("Paris", "Rome")


def test_count_tokens(claude: Any) -> None:
    asked: Any = {"model": "starter", "messages": CAPITAL, "system": "You are kind.", "tools": [WEATHER]}
    counted = claude.messages.count_tokens(**asked).input_tokens
    usage = claude.messages.create(**asked, max_tokens=1).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_errors_are_anthropics(claude: Any, server: Sidecar) -> None:
    asked: Any = {"model": "starter", "max_tokens": 5, "messages": CAPITAL}
    for change, words in (
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "reads blocks of type"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "x", "name": "f"}]}]}, "assistant"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"container": "c"}, "container"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=words):
            claude.messages.create(**(asked | change))
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(**(asked | {"model": "claude-none"}))
    with server.client() as http:
        for answer in (
            http.post("/v1/messages", content=b"{"),
            http.post("/v1/messages", json={}),
            http.post("/v1/messages", json=asked, headers={"host": "evil.example"}),
            http.get("/v1/messages/batches"),
        ):
            document = answer.json()
            assert answer.status_code >= 400
            assert document["type"] == "error"
            assert isinstance(document["error"]["message"], str)


def test_the_key_is_taken_as_anthropics_clients_send_it(tmp_path: Path, data_dir: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    with sidecar(tmp_path, "--api-key-file", str(key), data_dir=data_dir) as running:
        right = anthropic.Anthropic(base_url=running.url, api_key="secret", max_retries=0)
        assert right.messages.count_tokens(model="starter", messages=CAPITAL).input_tokens
        wrong = anthropic.Anthropic(base_url=running.url, api_key="other", max_retries=0)
        with pytest.raises(anthropic.AuthenticationError):
            wrong.messages.count_tokens(model="starter", messages=CAPITAL)
        assert httpx.head(running.url, headers={"x-api-key": "secret"}).status_code == 200
