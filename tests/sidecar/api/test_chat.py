"""Chat completions over a real socket, through the OpenAI SDK, with real weights."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from PIL import Image

from tests.support.servers import Sidecar

FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]


def picture(colour: tuple[int, int, int], form: str = "PNG", size: tuple[int, int] = (64, 64)) -> str:
    """A data URL of a plain picture."""
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def seen(*urls: str, text: str = "what is in this image?") -> Any:
    """A message with pictures."""
    parts = [{"type": "image_url", "image_url": {"url": u}} for u in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_answers_paris(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="starter", messages=FRANCE, temperature=0)
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7


def test_stream_gives_the_same_text_and_usage(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="starter", messages=FRANCE, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="starter", messages=FRANCE, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) > 5


def test_second_turn_is_cached(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Tell me something about the river Rhine, please, in one line."}]
    first = client.chat.completions.create(model="starter", messages=messages, temperature=0, max_tokens=24)
    reply: Any = {"role": "assistant", "content": first.choices[0].message.content}
    again: Any = {"role": "user", "content": "Go on."}
    second = client.chat.completions.create(
        model="starter", messages=[*messages, reply, again], temperature=0, max_tokens=8
    )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= first.usage.prompt_tokens


def test_seed_gives_the_same_text_alone_and_in_company(client: openai.OpenAI) -> None:
    def ask(question: str, seed: int) -> str | None:
        return (
            client.chat.completions.create(
                model="starter",
                messages=[{"role": "user", "content": question}],
                temperature=1.0,
                top_p=0.95,
                seed=seed,
                max_tokens=24,
            )
            .choices[0]
            .message.content
        )

    questions = [f"Tell me about the number {i}." for i in range(6)]
    alone = [ask(q, i) for i, q in enumerate(questions)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(ask, questions, range(6)))
    assert together == alone
    assert len(set(alone)) == 6


def test_different_seeds_differ(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="starter", messages=FRANCE, temperature=1.8, seed=5, n=3, max_tokens=20
    )
    assert len({c.message.content for c in answer.choices}) > 1
    assert [c.index for c in answer.choices] == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_across_tokens_never_shows(client: openai.OpenAI, stream: bool) -> None:
    # "ital of Fr" begins and ends inside tokens.
    arguments: Any = {"model": "starter", "messages": FRANCE, "temperature": 0, "stop": ["ital of Fr", "zzz"]}
    if stream:
        chunks = list(client.chat.completions.create(stream=True, **arguments))
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
        finish = chunks[-1].choices[0].finish_reason
    else:
        choice = client.chat.completions.create(**arguments).choices[0]
        text, finish = choice.message.content, choice.finish_reason
    assert text == "The cap"
    assert finish == "stop"


def test_max_tokens_cuts(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(model="starter", messages=FRANCE, temperature=0, max_tokens=3).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content == "The capital of"


def test_logprobs(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        model="starter", messages=FRANCE, temperature=0, logprobs=True, top_logprobs=3, max_tokens=5
    ).choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert "".join(t.token for t in content) == choice.message.content
    for token in content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token  # greedy: the likeliest was taken
        assert token.bytes == list(token.token.encode())


def test_logit_bias_forbids_and_forces(client: openai.OpenAI, server: Sidecar) -> None:
    with server.client() as http:
        ids = http.post("/tokenize", json={"model": "starter", "prompt": " Paris"}).json()["tokens"]
    answer = client.chat.completions.create(
        model="starter", messages=FRANCE, temperature=0, logit_bias={str(ids[0]): -100}, max_tokens=20
    )
    assert "Paris" not in (answer.choices[0].message.content or "")


def test_penalties_lower_what_came_before(client: openai.OpenAI) -> None:
    def answer(**penalties: Any) -> list[int]:
        logprobs = client.completions.create(
            model="starter", prompt="1, 2, 1, 2, 1, 2, 1, 2, 1,", temperature=0, max_tokens=24, **penalties
        ).choices[0]
        words = logprobs.text.replace(",", " ").split()
        return [words.count(w) for w in set(words)]

    plain = max(answer())
    assert plain > 2
    assert max(answer(frequency_penalty=2.0)) < plain
    assert max(answer(presence_penalty=2.0, frequency_penalty=1.0)) < plain


def test_json_schema_is_enforced(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 200}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(
        model="starter",
        messages=[{"role": "user", "content": "Invent a person."}],
        response_format=form,
        max_tokens=100,
    )
    document = json.loads(answer.choices[0].message.content or "")
    assert set(document) == {"name", "age"}
    assert isinstance(document["age"], int)


def test_json_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="starter",
        messages=[{"role": "user", "content": "Give the capital of France as JSON with the key capital."}],
        response_format={"type": "json_object"},
        temperature=0,
        max_tokens=200,
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    else:
        assert (answer.choices[0].message.content or "").startswith("{")


TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 20},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
        },
    }
]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_tool_call(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model="starter",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=TOOLS,
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=80,
    )
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls is not None
    assert len(message.tool_calls) == 1
    call: Any = message.tool_calls[0]
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["unit"] in ("celsius", "fahrenheit")
    assert isinstance(arguments["city"], str)


def test_forced_tool_call_streams_its_arguments(client: openai.OpenAI) -> None:
    arguments: Any = {
        "model": "starter",
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 80,
    }
    whole: Any = client.chat.completions.create(**arguments).choices[0].message.tool_calls
    name, text, pieces, ids = "", "", 0, set()
    for chunk in client.chat.completions.create(stream=True, **arguments):
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.index == 0
            ids |= {call.id} if call.id else set()
            assert call.function is not None
            name += call.function.name or ""
            text += call.function.arguments or ""
            pieces += bool(call.function.arguments)
    assert name == "get_weather"
    assert json.loads(text) == json.loads(whole[0].function.arguments)
    assert pieces > 2
    assert len(ids) == 1


def test_tool_history_is_understood(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages: Any = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees and sunny"},
    ]
    answer = client.chat.completions.create(
        model="starter", messages=messages, tools=TOOLS, temperature=0, max_tokens=40
    )
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_nulls_mean_absent_and_unknown_fields_are_ignored(server: Sidecar) -> None:
    names = (
        "max_tokens max_completion_tokens temperature top_p top_k min_p seed stop n logprobs top_logprobs logit_bias "
        "presence_penalty frequency_penalty repetition_penalty response_format tools tool_choice parallel_tool_calls "
        "reasoning_effort stream stream_options user metadata service_tier priority store modalities audio functions"
    )
    body = dict.fromkeys(names.split()) | {"messages": FRANCE, "model": "starter", "not_a_field": {"a": 1}}
    with server.client() as http:
        answer = http.post("/v1/chat/completions", json=body | {"max_tokens": 4, "temperature": 0})
    assert answer.status_code == 200, answer.text


def test_images_do_not_mix(client: openai.OpenAI) -> None:
    def ask(*urls: str) -> list[float]:
        answer = client.chat.completions.create(
            model="tiny-vl", messages=seen(*urls), temperature=0, max_tokens=4, logprobs=True
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        return [round(t.logprob, 3) for t in logprobs.content or []]

    red, blue = picture((220, 20, 20)), picture((20, 20, 220))
    first = ask(red)
    assert ask(blue) != first
    assert ask(red) == first
    assert ask(red, blue) != ask(blue, red)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_image_formats(client: openai.OpenAI, form: str) -> None:
    url = picture((10, 200, 10), form)
    answer = client.chat.completions.create(model="tiny-vl", messages=seen(url), temperature=0, max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 20


def test_service_tier_and_priority_are_echoed(client: openai.OpenAI, server: Sidecar) -> None:
    flex = client.chat.completions.create(
        model="starter", messages=FRANCE, temperature=0, max_tokens=2, service_tier="flex"
    )
    assert flex.service_tier == "flex"
    with server.client() as http:
        body = {"model": "starter", "messages": FRANCE, "max_tokens": 1, "priority": 5, "service_tier": "default"}
        by_body = http.post("/v1/chat/completions", json=body)
        by_header = http.post("/v1/chat/completions", json=body, headers={"X-Request-Priority": "interactive"})
    assert by_body.headers["x-request-priority"] == "batch"
    assert by_header.headers["x-request-priority"] == "interactive"
