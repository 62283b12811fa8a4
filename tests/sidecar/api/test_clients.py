"""Other programs' clients drive the server: PydanticAI, LiteLLM, Schemathesis; many at once."""

from __future__ import annotations

import base64
import io
import json
import os
import warnings
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel

from tests.support import drawn
from tests.support.servers import Sidecar
from tools.stress import schemas


def _picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 40)).save(data, "PNG")
    return data.getvalue()


# --- PydanticAI -----------------------------------------------------------------------------------------
class City(BaseModel):
    """A city."""

    name: str
    population: int


def _pydantic_model(server: Sidecar, name: str) -> Any:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=f"{server.url}/v1", api_key="none"))


async def _pydantic(server: Sidecar) -> None:
    from pydantic_ai import Agent, BinaryContent, NativeOutput

    deterministic: Any = {"temperature": 0, "max_tokens": 60}
    plain = Agent(_pydantic_model(server, "starter"), model_settings=deterministic)
    assert "Paris" in (await plain.run("What is the capital of France?")).output
    async with plain.run_stream("What is the capital of France?") as stream:
        parts = [part async for part in stream.stream_text(delta=True, debounce_by=None)]
    assert len(parts) > 2
    assert "Paris" in "".join(parts)

    native: Agent[None, City] = Agent(
        _pydantic_model(server, "starter"), output_type=NativeOutput(City), model_settings=deterministic
    )
    city = (await native.run("Paris has 2100000 people. Give the city.")).output
    assert isinstance(city, City)

    by_tool: Agent[None, City] = Agent(
        _pydantic_model(server, "starter"), output_type=City, model_settings=deterministic
    )
    assert isinstance((await by_tool.run("Paris has 2100000 people. Give the city.")).output, City)

    eyes = Agent(_pydantic_model(server, "tiny-vl"), model_settings={"temperature": 0, "max_tokens": 4})
    answer = await eyes.run(["what is it?", BinaryContent(_picture(), media_type="image/png")])
    assert answer.usage.input_tokens > 15


def test_pydantic_ai(server: Sidecar) -> None:
    import asyncio

    asyncio.run(_pydantic(server))


# --- LiteLLM --------------------------------------------------------------------------------------------
def test_litellm(server: Sidecar) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations at import
        import litellm

        common: Any = {"api_base": f"{server.url}/v1", "api_key": "none", "num_retries": 0}
        question = [{"role": "user", "content": "What is the capital of France?"}]
        whole = litellm.completion(model="openai/starter", messages=question, temperature=0, **common)
        assert "Paris" in whole.choices[0].message.content
        stream = litellm.completion(model="openai/starter", messages=question, temperature=0, stream=True, **common)
        assert "Paris" in "".join(c.choices[0].delta.content or "" for c in stream)
        tool = {
            "type": "function",
            "function": {
                "name": "capital",
                "parameters": {
                    "type": "object",
                    "properties": {"of": {"type": "string", "maxLength": 12}},
                    "required": ["of"],
                    "additionalProperties": False,
                },
            },
        }
        called = litellm.completion(
            model="openai/starter", messages=question, tools=[tool], tool_choice="required", max_tokens=60, **common
        )
        assert called.choices[0].message.tool_calls[0].function.name == "capital"
        form = {
            "type": "json_schema",
            "json_schema": {
                "name": "a",
                "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
            },
        }
        document = litellm.completion(
            model="openai/starter", messages=question, response_format=form, max_tokens=60, temperature=0, **common
        )
        assert "n" in json.loads(document.choices[0].message.content)
        url = "data:image/png;base64," + base64.b64encode(_picture()).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
        seen = litellm.completion(
            model="openai/tiny-vl", messages=[{"role": "user", "content": content}], max_tokens=2, **common
        )
        assert seen.usage.prompt_tokens > 15
        vectors = litellm.embedding(model="openai/minilm", input=["one", "two"], **common)
        assert len(vectors.data[0]["embedding"]) == 384
        with pytest.raises(litellm.exceptions.NotFoundError):
            litellm.completion(model="openai/not-here", messages=question, **common)
        with pytest.raises(litellm.exceptions.BadRequestError):
            litellm.completion(model="openai/starter", messages=question, temperature=9, **common)


# --- drawn schemas --------------------------------------------------------------------------------------
def test_documents_and_calls_of_drawn_schemas_are_valid_or_refused(server: Sidecar) -> None:
    counts, wrong = schemas.run(server.url, "tiny-vl", drawn.many(32, seed=1), tokens=200)
    assert not wrong
    assert counts.total() == 32
    assert counts["document valid"]
    assert counts["call valid"]


@pytest.mark.parametrize(
    ("kind", "text", "cut", "said"),
    [
        ("document", '{"n": 1}', False, "document valid"),
        ("document", '{"n": "1"}', False, "WRONG"),
        ("document", '{"n": "1"}', True, "document cut"),
        ("document", '{"n": ', False, "WRONG"),
        ("call", "[1]", False, "WRONG"),
    ],
)
def test_what_judges_them_sees_faults(kind: str, text: str, cut: bool, said: str) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    calls = [{"function": {"name": "drawn", "arguments": text}}]
    message: dict[str, Any] = {"content": text} if kind == "document" else {"content": None, "tool_calls": calls}
    choice = {"message": message, "finish_reason": "length" if cut else "stop"}
    assert schemas.judged(kind, schema, choice, forced=kind == "call").startswith(said)


# --- Schemathesis ---------------------------------------------------------------------------------------
EXAMPLES = int(os.environ.get("MLX_SIDECAR_FUZZ_EXAMPLES", "4"))
"""Requests drawn for each operation; `make fuzz` draws many."""


@pytest.mark.timeout(600 if EXAMPLES < 20 else 7200)
def test_every_operation_with_a_body_tells_how_it_is_refused(server: Sidecar) -> None:
    paths: dict[str, dict[str, Any]] = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    operations = {f"{m} {p}": o for p, methods in paths.items() for m, o in methods.items() if "requestBody" in o}
    missing = {n: m for n, o in operations.items() if (m := {"400", "401", "403", "413", "422"} - set(o["responses"]))}
    assert len(operations) > 10
    assert not missing


def test_the_openapi_document_holds(server: Sidecar) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = server.url
    checked = 0
    statuses: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=EXAMPLES < 20,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), spoil=st.sampled_from(["", "", "surrogate", "nested"]), at=st.integers(0))
        def check(case: Any, spoil: str, at: int) -> None:
            nonlocal checked
            response: Any
            if isinstance(case.body, dict):
                case.body = _small(case.body)
            if isinstance(case.body, dict) and spoil:
                # Sent by hand: as escapes, which Schemathesis' own client can't write of half a character.
                body = json.dumps(_spoiled(case.body, spoil, at)).encode()
                address = f"{server.url}{case.formatted_path}"
                head = {"content-type": "application/json"}
                response = httpx.request(case.method, address, content=body, headers=head, timeout=120)
            else:
                response = case.call(timeout=120)
            assert response.status_code < 500, f"{case.method} {case.path}: {response.text}"
            documented = {str(s) for s in case.operation.definition.raw["responses"]}
            assert str(response.status_code) in documented, f"{case.method} {case.path}: {response.status_code}"
            checked += 1
            statuses.setdefault(case.path, set()).add(response.status_code)

        check()
    assert checked > 60
    served: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
        "/v1/completions": {"prompt": "hi", "max_tokens": 2},
        "/v1/embeddings": {"model": "minilm", "input": "hi"},
        "/tokenize": {"prompt": "hi"},
    }
    for path, body in served.items():
        assert httpx.post(f"{server.url}{path}", json=body, timeout=120).status_code == 200, (
            "what drew them out is gone"
        )
        assert path in statuses


def _small(body: dict[str, Any]) -> dict[str, Any]:
    """Keeps answers short and of a small model; everything else stays as it was drawn."""
    for key in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(body.get(key), int) and body[key] > 4:
            body[key] = 4
    if "messages" in body or "prompt" in body:
        body.setdefault("max_tokens", 4)
        if body.get("max_tokens") is None:
            body["max_tokens"] = 4
    if isinstance(body.get("model"), str) or body.get("model") is None:
        body["model"] = "minilm" if isinstance(body.get("input"), str) and "stream" not in body else "tiny-vl"
    return body


def _spoiled(body: dict[str, Any], how: str, at: int) -> dict[str, Any]:
    """Put half a character, or a hundred levels, into one place of a body, whatever stood there."""
    if not how or not body:
        return body
    places: list[tuple[Any, Any]] = []
    level: list[Any] = [body]
    while level:
        items = [(one, k) for one in level for k in (one if isinstance(one, dict) else range(len(one)))]
        places += items
        level = [one[k] for one, k in items if isinstance(one[k], dict | list)]
    where, key = places[at % len(places)]
    if how == "surrogate":
        where[key] = f"{where[key]}\ud83d" if isinstance(where[key], str) else "\udc00"
        if at % 3 == 0 and isinstance(where, dict):
            where["\ud800"] = "a key"
    else:
        nested: Any = where[key]
        for depth in range(20 + at % 300):
            nested = [nested] if depth % 2 else {"properties": nested}
        where[key] = nested
    return body
