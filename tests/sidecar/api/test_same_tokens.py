"""One request by three APIs: the streams hold the same text, thoughts and calls, and count the same tokens."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.servers import Sidecar

QUESTION = "Name three colours, each with a thing that has it."
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def http(server: Sidecar) -> Any:
    with server.client() as client:
        yield client


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", path, json={"model": "starter", "temperature": 0, "stream": True, **body}) as answer:
        assert answer.status_code == 200, answer.read()
        return [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]


def by_chat(http: httpx.Client, tool: bool) -> tuple[str, str, int]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 60}
    if tool:
        function = {"name": "weather", "parameters": PARAMETERS}
        body |= {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    found = events(http, "/v1/chat/completions", body | {"stream_options": {"include_usage": True}})
    deltas = [c["choices"][0]["delta"] for c in found if c["choices"]]
    text = "".join(d.get("content") or "" for d in deltas)
    calls = "".join(t["function"].get("arguments", "") for d in deltas for t in d.get("tool_calls", []))
    return text, calls, found[-1]["usage"]["completion_tokens"]


def by_responses(http: httpx.Client, tool: bool) -> tuple[str, str, int]:
    body: dict[str, Any] = {"input": QUESTION, "max_output_tokens": 60, "store": False}
    if tool:
        one = {"type": "function", "name": "weather", "parameters": PARAMETERS}
        body |= {"tools": [one], "tool_choice": "required"}
    found = events(http, "/v1/responses", body)
    text = "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta")
    calls = "".join(e["delta"] for e in found if e["type"] == "response.function_call_arguments.delta")
    return text, calls, found[-1]["response"]["usage"]["output_tokens"]


def by_messages(http: httpx.Client, tool: bool) -> tuple[str, str, int]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 60}
    if tool:
        body |= {"tools": [{"name": "weather", "input_schema": PARAMETERS}], "tool_choice": {"type": "any"}}
    found = events(http, "/v1/messages", body)
    deltas = [e["delta"] for e in found if e["type"] == "content_block_delta"]
    text = "".join(d.get("text", "") for d in deltas)
    calls = "".join(d.get("partial_json", "") for d in deltas)
    return text, calls, next(e for e in found if e["type"] == "message_delta")["usage"]["output_tokens"]


@pytest.mark.parametrize("tool", [False, True], ids=["words", "call"])
def test_three_streams_of_one_request_hold_the_same_tokens(http: httpx.Client, tool: bool) -> None:
    chat = by_chat(http, tool)
    assert chat[1 if tool else 0]
    assert by_responses(http, tool) == chat
    assert by_messages(http, tool) == chat
