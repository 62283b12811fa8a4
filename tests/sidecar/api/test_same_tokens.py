"""One request by three APIs: the streams hold the same text, thoughts and calls, and count the same tokens."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.scripted_model import Script, scripted_model, tool_call
from tests.support.servers import sidecar

QUESTION = "Name three colours, each with a thing that has it."
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Case:
    """One request. ``tools``: "auto" or "required", "" for none; ``stop``: a text that ends the answer."""

    model: str = "starter"
    question: str = QUESTION
    tokens: int = 60
    tools: str = ""
    picture: str = ""
    stop: str = ""


@dataclass(frozen=True)
class Said:
    """What a stream held, and how it ended: "stop", "length" or "calls"."""

    text: str
    thought: str
    calls: str
    tokens: int
    end: str


def events(http: httpx.Client, path: str, case: Case, body: dict[str, Any]) -> list[dict[str, Any]]:
    body = {"model": case.model, "temperature": 0, "stream": True, **body}
    with http.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200, answer.read()
        return [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]


def by_chat(http: httpx.Client, case: Case) -> Said:
    content: Any = case.question
    if case.picture:
        content = [
            {"type": "image_url", "image_url": {"url": case.picture}},
            {"type": "text", "text": case.question},
        ]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "max_tokens": case.tokens}
    if case.tools:
        function = {"name": "weather", "parameters": PARAMETERS}
        body |= {"tools": [{"type": "function", "function": function}], "tool_choice": case.tools}
    if case.stop:
        body["stop"] = [case.stop]
    found = events(http, "/v1/chat/completions", case, body | {"stream_options": {"include_usage": True}})
    choices = [c["choices"][0] for c in found if c["choices"]]
    deltas = [c["delta"] for c in choices]
    end = next(c["finish_reason"] for c in choices if c["finish_reason"])
    return Said(
        text="".join(d.get("content") or "" for d in deltas),
        thought="".join(d.get("reasoning_content") or "" for d in deltas),
        calls="".join(t["function"].get("arguments", "") for d in deltas for t in d.get("tool_calls", [])),
        tokens=found[-1]["usage"]["completion_tokens"],
        end={"tool_calls": "calls"}.get(end, end),
    )


def by_responses(http: httpx.Client, case: Case) -> Said:
    given: Any = case.question
    if case.picture:
        parts = [
            {"type": "input_image", "image_url": case.picture},
            {"type": "input_text", "text": case.question},
        ]
        given = [{"role": "user", "content": parts}]
    body: dict[str, Any] = {"input": given, "max_output_tokens": case.tokens, "store": False}
    if case.tools:
        one = {"type": "function", "name": "weather", "parameters": PARAMETERS}
        body |= {"tools": [one], "tool_choice": case.tools}
    found = events(http, "/v1/responses", case, body)
    last = found[-1]["response"]
    calls = any(item["type"] == "function_call" for item in last["output"])
    ends = {"completed": "calls" if calls else "stop", "incomplete": "length"}
    return Said(
        text="".join(e["delta"] for e in found if e["type"] == "response.output_text.delta"),
        thought="".join(e["delta"] for e in found if e["type"] == "response.reasoning_text.delta"),
        calls="".join(e["delta"] for e in found if e["type"] == "response.function_call_arguments.delta"),
        tokens=last["usage"]["output_tokens"],
        end=ends[last["status"]],
    )


def by_messages(http: httpx.Client, case: Case) -> Said:
    content: Any = case.question
    if case.picture:
        source = {"type": "base64", "media_type": "image/png", "data": case.picture.partition(",")[2]}
        content = [{"type": "image", "source": source}, {"type": "text", "text": case.question}]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "max_tokens": case.tokens}
    if case.tools:
        choice = {"type": {"auto": "auto", "required": "any"}[case.tools]}
        body |= {"tools": [{"name": "weather", "input_schema": PARAMETERS}], "tool_choice": choice}
    if case.stop:
        body["stop_sequences"] = [case.stop]
    found = events(http, "/v1/messages", case, body)
    deltas = [e["delta"] for e in found if e["type"] == "content_block_delta"]
    last = next(e for e in found if e["type"] == "message_delta")
    ends = {"end_turn": "stop", "stop_sequence": "stop", "tool_use": "calls", "max_tokens": "length"}
    return Said(
        text="".join(d.get("text", "") for d in deltas),
        thought="".join(d.get("thinking", "") for d in deltas),
        calls="".join(d.get("partial_json", "") for d in deltas),
        tokens=last["usage"]["output_tokens"],
        end=ends[last["delta"]["stop_reason"]],
    )


def picture() -> str:
    """Return a picture as a data URL."""
    image = Image.new("RGB", (64, 64), (220, 30, 30))
    image.paste((30, 30, 220), (16, 16, 40, 60))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


CASES = {
    "stop": (Case(question="What is the capital of France?"), "stop"),
    "length": (Case(tokens=12), "length"),
    "call": (Case(tools="required"), "calls"),
    "call-cut": (Case(tools="required", tokens=20), "length"),
    "picture": (Case(model="tiny-vl", question="What do you see?", tokens=12, picture=picture()), "length"),
}


@pytest.mark.parametrize("name", CASES)
def test_three_streams_of_one_request_hold_the_same_tokens(http: httpx.Client, name: str) -> None:
    case, end = CASES[name]
    chat = by_chat(http, case)
    assert chat.end == end
    assert chat.calls if case.tools else chat.text
    assert by_responses(http, case) == chat
    assert by_messages(http, case) == chat


def test_a_stop_string_ends_both_apis_that_know_one_alike(http: httpx.Client) -> None:
    """Responses has none."""
    case = Case(question="What is the capital of France?", stop=" is")
    chat = by_chat(http, case)
    assert (chat.text, chat.end) == ("The capital of France", "stop")
    assert by_messages(http, case) == chat


THOUGHT = "I don't know the weather, so I look."
WORDS = "One moment."
CALL = {"city": "Rome", "days": 2}


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[httpx.Client]:
    """A model that thinks, speaks and calls, by its script."""
    folder = tmp_path_factory.mktemp("thinking")
    thought = f"<think>\n{THOUGHT}\n</think>\n\n"
    scripts = [
        Script("in Rome", f"{thought}{WORDS}\n{tool_call('weather', CALL)}"),
        Script("in Paris", f"{thought}It rains, as so often."),
        Script("at once", tool_call("weather", CALL)),
    ]
    scripted_model(folder / "models" / "scripted", scripts, thinks=True)
    arguments = ("--model-dir", str(folder / "models"))
    with sidecar(folder / "server", *arguments, data_dir=data_dir) as running, running.client() as client:
        yield client


@pytest.mark.parametrize(
    ("question", "tokens", "said"),
    [
        ("How is it in Rome?", 200, Said(WORDS, THOUGHT, json.dumps(CALL), 0, "calls")),
        ("How is it in Paris?", 200, Said("It rains, as so often.", THOUGHT, "", 0, "stop")),
        ("Call at once.", 200, Said("", "", json.dumps(CALL), 0, "calls")),
        ("How is it in Rome?", 8, Said("", THOUGHT, "", 8, "length")),
    ],
    ids=["thought-words-call", "thought-words", "call", "cut-in-thought"],
)
def test_thoughts_words_and_calls_of_ones_own_accord_are_the_same(
    thinking: httpx.Client, question: str, tokens: int, said: Said
) -> None:
    case = Case(model="scripted", question=question, tokens=tokens, tools="auto")
    chat = by_chat(thinking, case)
    assert chat.end == said.end
    assert chat.text.strip() == said.text
    assert chat.calls == said.calls
    assert said.thought.startswith(chat.thought) if said.end == "length" else chat.thought == said.thought
    assert by_responses(thinking, case) == chat
    assert by_messages(thinking, case) == chat
