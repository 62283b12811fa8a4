"""The table of events knows every event of both SDKs, and what real streams send is among those it says are sent."""

from __future__ import annotations

import json
import typing
from typing import Any

from anthropic.types import RawContentBlockDelta, RawMessageStreamEvent
from openai.types.responses import ResponseStreamEvent

from sidecar.api import events
from tests.support.servers import Sidecar


def types_of(union: Any) -> list[str]:
    """Return the type of each member of an SDK's union."""
    return [m.model_fields["type"].annotation.__args__[0] for m in typing.get_args(typing.get_args(union)[0])]


def test_every_event_of_the_sdks_is_in_the_table() -> None:
    for name in types_of(ResponseStreamEvent):
        assert events.entry(events.RESPONSES, name), name
    deltas = [f"content_block_delta: {name}" for name in types_of(RawContentBlockDelta)]
    for name in [n for n in types_of(RawMessageStreamEvent) if n != "content_block_delta"] + deltas:
        assert events.entry(events.MESSAGES, name), name
    known = types_of(ResponseStreamEvent)
    for key in events.RESPONSES:
        assert key == ": comment" or any(events.entry({key: ""}, name) for name in known), key


def test_streams_send_what_the_table_says(server: Sidecar) -> None:
    tool = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"enum": ["a"]}}, "required": ["at"]}}
    seen: set[str] = set()
    with server.client() as http:

        def stream(path: str, **body: Any) -> list[dict[str, Any]]:
            answer = http.post(path, json={"model": "starter", "stream": True, "temperature": 0, **body})
            return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]

        choice: dict[str, Any] = {"tools": [{"type": "function", **tool}], "tool_choice": "required"}
        found = stream("/v1/responses", input="Hello", max_output_tokens=4, store=False)
        found += stream("/v1/responses", input="Look", max_output_tokens=60, store=False, **choice)
        for event in found:
            assert events.RESPONSES.get(event["type"]) == "", event["type"]
            seen.add(event["type"])
        messages = [{"role": "user", "content": "Hello"}]
        blocks = stream("/v1/messages", messages=messages, max_tokens=4)
        for event in blocks:
            name = event["type"]
            name = f"{name}: {event['delta']['type']}" if name == "content_block_delta" else name
            assert events.MESSAGES.get(name) == "", name
            seen.add(name)
    assert {"response.incomplete", "response.completed", "response.function_call_arguments.done"} <= seen
    assert {"message_start", "ping", "content_block_delta: text_delta", "message_stop"} <= seen
