"""Schemas are enforced or refused with the path of what can't be; what is enforced validates elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.engine.grammar import Constraint
from sidecar.text.schemas import Prepared, SchemaError, arguments_schema, json_rule, response_schema
from sidecar.text.schemas.walk import pointer, resolve
from tests.support.drawn import FIELDS, schema_of
from tests.support.grammars import constraint, spelled, vocabulary, written
from tools import schema_table

WORDS = vocabulary()


def _constraint(schema: dict[str, Any]) -> Constraint:
    return constraint(WORDS, f'%llguidance {{"no_forcing": true}}\nstart: {json_rule(schema)}\n')


def _takes(state: Constraint, value: Any) -> bool:
    for byte in json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"):
        mask = state.mask(WORDS.size)
        assert mask is not None
        if not mask[byte]:
            return False
        state.accept(byte)
    return state.accepting


@pytest.mark.parametrize(
    ("schema", "path", "reason"),
    [
        (
            {"properties": {"a": {"type": "array", "uniqueItems": True}}},
            "properties.a.uniqueItems",
            "can't be enforced",
        ),
        ({"$defs": {"x": {"not": {"type": "string"}}}, "$ref": "#/$defs/x"}, "$defs.x.not", "can't be enforced"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)y"}}}, "properties.a", "regex"),
        ({"type": "object", "minProperties": 3}, "minProperties", "can't be enforced"),
        ({"properties": {"a": {"$ref": "#/nope"}}}, "properties.a", "nope"),
        ({"$ref": "https://example.com/x"}, "the schema", "example.com"),
        ({"enum": ["a\x00b"]}, "enum", "control character"),
        ({"enum": []}, "the schema", "nsatisfiable"),
        ({"required": "a"}, "required", "is a list"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "the schema", "oneOf"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "$schema", "draft 3"),
        (False, "the schema", "is an object"),
    ],
)
def test_what_cant_be_enforced_is_named_with_its_path(schema: Any, path: str, reason: str) -> None:
    with pytest.raises(SchemaError) as refused:
        response_schema(schema, strict=False)
    assert str(refused.value).startswith(f"{path}:"), str(refused.value)
    assert reason in str(refused.value)


def test_a_schema_nested_without_end_is_refused_before_it_is_walked() -> None:
    schema: dict[str, Any] = {}
    for _ in range(3000):
        schema = {"items": schema}
    with pytest.raises(SchemaError, match="deep"):
        response_schema(schema, strict=False)


def test_unknown_formats_are_remarks_unless_strict() -> None:
    schema = {"type": "object", "properties": {"p": {"type": "string", "format": "password"}}}
    made = response_schema(schema, strict=False)
    assert made.remarks == ("properties.p.format: 'password' is taken as a remark",)
    assert "format" in schema["properties"]["p"]  # type: ignore[index]  # the client's own stays as it is
    with pytest.raises(SchemaError, match=r"properties\.p\.format"):
        response_schema(schema, strict=True)


def test_a_tools_keywords_that_cant_be_held_are_remarks_unless_strict() -> None:
    schema = {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "n": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        },
    }
    made = arguments_schema(schema, strict=False)
    assert [r.split(" ")[0] for r in made.remarks] == ["properties.tags.uniqueItems", "properties.n.oneOf"]
    with pytest.raises(SchemaError, match=r"properties\.tags\.uniqueItems"):
        arguments_schema(schema, strict=True)


@pytest.mark.parametrize("parameters", [None, True, {}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_no_parameters_are_an_empty_object(parameters: Any) -> None:
    state = _constraint(arguments_schema(parameters, strict=False).schema)
    assert _takes(state.copy(), {})
    assert not _takes(state.copy(), {"a": 1})
    assert not _takes(state, [])


def test_arguments_are_an_object_whatever_the_schema_says() -> None:
    state = _constraint(
        arguments_schema({"properties": {"a": {"enum": ["x"]}}, "required": ["a"]}, strict=False).schema
    )
    assert _takes(state.copy(), {"a": "x"})
    assert not _takes(state, "x")
    with pytest.raises(SchemaError, match="always an object"):
        arguments_schema({"type": "string"}, strict=False)


def test_objects_are_closed_where_no_other_schema_adds_to_them() -> None:
    inner = {"type": "object", "properties": {"n": {"type": "integer"}}}
    closed = response_schema({"type": "object", "properties": {"a": inner, "free": {"type": "object"}}}, strict=False)
    state = _constraint(closed.schema)
    assert _takes(state.copy(), {"a": {"n": 1}, "free": {"b": 2}})
    assert not _takes(state.copy(), {"a": {"n": 1, "invented": 2}})
    assert not _takes(state, {"a": {"n": 1}, "invented": 2})
    joined = {
        "allOf": [{"$ref": "#/$defs/A"}, {"type": "object", "properties": {"b": {}}, "required": ["b"]}],
        "$defs": {"A": {"type": "object", "properties": {"a": {}}, "required": ["a"]}},
    }
    assert _takes(_constraint(response_schema(joined, strict=False).schema), {"a": 1, "b": 2})
    opened = {"type": "object", "properties": {"a": {}}, "additionalProperties": True}
    assert _takes(_constraint(response_schema(opened, strict=False).schema), {"a": 1, "b": 2})


def test_references_keep_their_own_root() -> None:
    tree = {
        "type": "object",
        "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}, "of": {"$ref": "#/definitions/a~1b"}},
        "definitions": {"a/b": {"type": "integer"}},
    }
    made = arguments_schema(tree, strict=False).schema
    for path, good, bad in (
        ((), {"kids": [{"kids": [{"of": 1}]}]}, {"kids": [{"of": "x"}]}),
        (("properties", "kids"), [{"kids": []}, {"of": 3}], [{"of": "x"}]),
    ):
        rule = f'%llguidance {{"no_forcing": true}}\nstart: {json_rule(made, path)}\n'
        assert _takes(constraint(WORDS, rule), good)
        assert not _takes(constraint(WORDS, rule), bad)


ODD_NAMES = ("a b", "Box[int]", "城市", "ä", 'a"b', "a^b|c", "a%b", "a?b#c", "a\\b", "<x>", "a/b~c", "{}")


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("encoded", [True, False], ids=["encoded", "plain"])
def test_any_name_can_be_referred_to(name: str, encoded: bool) -> None:
    plain = "#/$defs/" + name.replace("~", "~0").replace("/", "~1")
    reference = pointer(("$defs", name)) if encoded else plain
    assert not encoded or resolve({"$defs": {name: 1}}, reference) == 1
    schema = {
        "type": "object",
        "properties": {"x": {"$ref": reference}},
        "patternProperties": {f"^{re.escape(name)}$": {"type": "boolean"}},
        "$defs": {name: {"type": "integer"}},
        "required": ["x"],
    }
    for make in (response_schema, arguments_schema):
        made = make(schema, strict=False)
        assert not made.remarks
        assert _takes(_constraint(made.schema), {"x": 1})
        assert not _takes(_constraint(made.schema), {"x": "one"})
        rule = f'%llguidance {{"no_forcing": true}}\nstart: {json_rule(made.schema, ("properties", "x"))}\n'
        assert _takes(constraint(WORDS, rule), 1)
        assert not _takes(constraint(WORDS, rule), "one")


# --- JSON Schema's own test suite ----------------------------------------------------------------------
def test_the_page_says_what_is_enforced(suite: Path) -> None:
    assert schema_table.PAGE.read_text("utf-8") == schema_table.page(suite / "draft2020-12")


@pytest.fixture(scope="session")
def suite() -> Path:
    """Return the folder of the official suite, from the source package of the validator that carries it."""
    folder = schema_table.SUITE
    cache = folder.parent.parent.parent
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        pip = shutil.which("pip") or shutil.which("pip3")
        if pip is None:
            pytest.skip("there is no pip to fetch the suite with")
        command = [
            pip,
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            "jsonschema",
            schema_table.PACKAGE,
            "-d",
            str(cache),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        archive = next(cache.glob("jsonschema-*.tar.gz"), None)
        if archive is None:
            pytest.skip(f"the suite can't be had: {done.stderr[-200:]}")
        with tarfile.open(archive) as tar:
            tar.extractall(cache, filter="data")
    return folder


DRAFTS = {
    "draft2020-12": ("https://json-schema.org/draft/2020-12/schema", 187),
    "draft2019-09": ("https://json-schema.org/draft/2019-09/schema", 190),
    "draft7": ("http://json-schema.org/draft-07/schema#", 165),
    "draft6": ("http://json-schema.org/draft-06/schema#", 160),
    "draft4": ("http://json-schema.org/draft-04/schema#", 110),
}


@pytest.mark.parametrize("draft", DRAFTS)
def test_the_official_suite_is_enforced_or_refused(suite: Path, draft: str) -> None:
    address, least = DRAFTS[draft]
    found: Counter[str] = Counter()
    wrong = []
    for file in sorted((suite / draft).glob("*.json")):
        for group in json.loads(file.read_text("utf-8")):
            schema = group["schema"]
            if isinstance(schema, dict):
                schema = {"$schema": address, **schema}
            try:
                made = response_schema(schema, strict=False)
            except SchemaError:
                found["refused"] += 1
                continue
            found["remark" if made.remarks else "enforced"] += 1
            state = _constraint(made.schema)
            for case in group["tests"]:
                taken = _takes(state.copy(), case["data"])
                found["valid taken"] += taken and case["valid"]
                if taken and not case["valid"] and not made.remarks:
                    wrong.append((file.name, group["description"], case["description"]))
    assert not wrong
    assert found["enforced"] >= least, found
    assert found["valid taken"] > found["enforced"]


# --- drawn models -------------------------------------------------------------------------------------
def _held(made: Prepared, original: dict[str, Any], seed: int) -> None:
    tokens, ended = written(WORDS, _constraint(made.schema), seed=seed, limit=400)
    if ended:
        text = spelled(WORDS, tokens)
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(original, format_checker=checker).validate(json.loads(text))


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(fields=FIELDS, seed=st.integers(0, 99))
def test_a_drawn_models_schema_is_enforced_or_refused(fields: dict[str, Any], seed: int) -> None:
    original = schema_of(fields)
    if original is None:
        return
    reasons: list[str] = []
    for make in (response_schema, arguments_schema):
        try:
            made = make(original, strict=False)
        except SchemaError as refused:
            reasons.append(str(refused))
            continue
        if not [r for r in made.remarks if "not enforced" in r]:
            _held(made, original, seed)
    assert all("uniqueItems" in reason or "oneOf" in reason for reason in reasons), reasons
