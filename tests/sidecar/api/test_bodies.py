"""Bodies are mended without being parsed, and no list in one costs more than its first fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from sidecar.api import bodies, routing, schemas
from sidecar.api.bodies import MAX_HALVES, TooBroken, whole_characters
from sidecar.api.messages import schemas as messages
from sidecar.api.responses import schemas as responses

PIECES = st.sampled_from(["\\", "u", "ud83d", "\ud83d", "\ude00", "\ud83d\ude00", "é", "한", '"', "\n", "x"])


@given(st.lists(PIECES, max_size=12).map("".join), st.booleans(), st.integers(13, 40))
def test_halves_of_characters_are_replaced_and_nothing_else_is(text: str, ascii_only: bool, stretch: int) -> None:
    body = json.dumps({"a": text}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "_STRETCH", stretch)
        assert json.loads(whole_characters(body)) == {"a": whole}


@given(st.binary(max_size=60) | st.lists(PIECES, max_size=9).map(lambda p: "".join(p).encode("utf-8", "surrogatepass")))
def test_what_is_no_json_is_left_to_the_parser(body: bytes) -> None:
    assert len(whole_characters(body)) >= len(body) - body.count(b"\xed") * 3


@pytest.mark.parametrize("text", [b'{"a": "\xff"}', b'{"a": 1} x', b"{", b'{"a": [1,]}', b"[" * 5000])
def test_a_large_body_that_is_no_json_is_one_of_the_errors_the_framework_knows(text: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        routing.parsed(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_a_large_body_is_read_as_a_small_one(value: Any) -> None:
    for text in (json.dumps([value]), json.dumps([value], ensure_ascii=False), f" {json.dumps(value)}", "\ufeff[1]"):
        data = text.encode("utf-8")
        assert repr(routing.parsed(data)) == repr(json.loads(data))


@pytest.mark.parametrize("half", [b"\\ud83d", b"\\ude00", b"\xed\xa0\xbd"])
def test_a_body_of_nothing_but_halves_is_refused(half: bytes) -> None:
    with pytest.raises(TooBroken):
        whole_characters(b'"' + half * (MAX_HALVES + 1) + b'"')
    assert whole_characters(b'"' + b"\\ud83d\\ude00" * (MAX_HALVES + 1) + b'"').isascii()


def lists(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lists and mappings of a core schema that look at every item."""
    if isinstance(schema, dict):
        if schema.get("type") == "function-before" and schema["schema"]["type"] == "dict":
            return  # looked at by its size first
        if schema.get("type") in ("list", "dict") and isinstance(schema.get("items_schema", {}), dict):
            yield path, schema
        for key, value in schema.items():
            yield from lists(value, f"{path}.{key}")
    elif isinstance(schema, list | tuple):
        for i, value in enumerate(schema):
            yield from lists(value, f"{path}.{i}")


BODIES = sorted(
    {
        cls
        for module in (schemas, messages, responses)
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, BaseModel) and cls.__name__.endswith("Request")
    },
    key=lambda cls: (cls.__module__, cls.__name__),
)


@pytest.mark.parametrize("body", BODIES, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_no_list_of_a_body_tells_a_fault_for_each_of_its_items(body: type[BaseModel]) -> None:
    for path, schema in lists(body.__pydantic_core_schema__):
        inner = schema.get("items_schema") or schema.get("values_schema") or {}
        if inner.get("type", "any") != "any":
            assert schema.get("fail_fast") or schema.get("max_length", 1 << 30) <= 4096, path


def test_half_a_million_faulty_messages_are_one_fault() -> None:
    with pytest.raises(ValidationError) as found:
        schemas.ChatRequest.model_validate({"messages": [{}] * 500_000})
    assert found.value.error_count() <= 2
    with pytest.raises(ValidationError) as found:
        schemas.ChatRequest.model_validate(
            {"messages": [{"role": "user", "content": "x"}], "logit_bias": {str(i): "x" for i in range(100_000)}}
        )
    assert found.value.error_count() == 1
