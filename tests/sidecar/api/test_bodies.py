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


ODD = st.sampled_from(
    ["NaN", "-Infinity", "1e400", "1" * 30, "1" * 5000, "-0", "1.5E3", '"\\ud83d"', '"\\ud83d\\ude00"', "[}"]
)


@given(st.lists(ODD | PIECES.map(json.dumps), max_size=6), st.sampled_from(["", " \r\n\t", "\ufeff"]))
def test_a_large_body_has_the_numbers_and_characters_that_a_small_one_has(values: list[str], before: str) -> None:
    text = f"{before}[{', '.join(values)}]".encode()
    try:
        small = json.loads(whole_characters(text))
    except ValueError:
        small = ValueError
    try:
        large = routing.parsed(bytearray(text))
    except ValueError:
        large = ValueError
    if "1" * 5000 not in values:  # Python's parser refuses as many digits, the schemas do here
        assert repr(large) == repr(small)


def test_a_body_is_mended_without_a_copy() -> None:
    for half in (b"\\ud83d", b"\xed\xa0\xbd", b"\xed\xa0\xbd\xed\xb8\x80"):
        body = bytearray(b'["%s", "%s"]' % (half + b"x" * 50, half))
        assert whole_characters(body) is body
        assert json.loads(body) == json.loads(whole_characters(bytes(body)))
        assert [len(text) for text in routing.parsed(body)] == [51, 1]


@pytest.mark.parametrize("text", [b"\\u00e9", "é".encode(), b"\\ud83d\\ude00", b"\\ud83d"])
def test_much_text_is_refused_where_its_characters_make_it_four_times_as_large(text: bytes) -> None:
    file = b"data:image/png;base64," + b"QUJD/+" * (bodies.MAX_TEXT // 6) + b"="
    for written in (file, file[22:], file.replace(b"/", b"\\/")):
        assert bodies.little_text(b'{"a":"%s","b":["%s"]}' % (text, written))
    assert not bodies.little_text(b'{"a":"%s","b":"%s"}' % (text, b"a b" * (bodies.MAX_TEXT // 3)))
    assert bodies.little_text(b'{"a":"%s"}' % (b"a\\n" * (bodies.MAX_TEXT // 2)))


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


@pytest.mark.parametrize(
    "given", [[1, "x"], [1, -1], [1, True], [1, 1.5], ["x", 1], ["x", None], [[1], [-1]], [[1], 2]]
)
def test_a_list_that_is_checked_at_once_still_tells_its_first_fault(given: list[Any]) -> None:
    with pytest.raises(ValidationError) as found:
        schemas.EmbeddingRequest.model_validate({"model": "m", "input": given})
    assert found.value.errors()[0]["loc"][:1] == ("input",)
    assert 1 in found.value.errors()[0]["loc"]


def test_half_a_million_faulty_messages_are_one_fault() -> None:
    with pytest.raises(ValidationError) as found:
        schemas.ChatRequest.model_validate({"messages": [{}] * 500_000})
    assert found.value.error_count() <= 2
    with pytest.raises(ValidationError) as found:
        schemas.ChatRequest.model_validate(
            {"messages": [{"role": "user", "content": "x"}], "logit_bias": {str(i): "x" for i in range(100_000)}}
        )
    assert found.value.error_count() == 1
