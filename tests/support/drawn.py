"""Drawn schemas, of pydantic models and of every keyword, for tests and stress runs that ask for their documents."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, Literal, Optional

import hypothesis
import pydantic
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st


class _Colour(Enum):
    RED = "red"
    BLUE = "blue"


class _Node(pydantic.BaseModel):
    value: int
    next: _Node | None = None


def _model(fields: dict[str, Any]) -> Any:
    create: Any = pydantic.create_model
    return create("Drawn", **{k: (t, ...) for k, t in fields.items()})


_SIMPLE: list[Any] = [
    str, int, float, bool, None, _Colour, _Node, Literal["a", 1, True], list[int], dict[str, int], tuple[int, str], Any,
    dict[Literal["x", "y"], bool], pydantic.conint(ge=3, lt=9), pydantic.constr(min_length=2, max_length=4),
    pydantic.constr(pattern=r"^[a-c]{2,3}$"), pydantic.conlist(int, min_length=1, max_length=3), set[int],
    pydantic.UUID4, pydantic.AwareDatetime, pydantic.SecretStr,
]  # fmt: skip
_TYPES = st.recursive(
    st.sampled_from(_SIMPLE),
    lambda inner: st.one_of(
        inner.map(lambda t: list[t]),  # type: ignore[valid-type]
        inner.map(lambda t: Optional[t]),  # noqa: UP045
        st.tuples(inner, inner).map(lambda p: p[0] | p[1] if p[0] is not None and p[1] is not None else p[0]),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(_model),
    ),
    max_leaves=5,
)
FIELDS = st.dictionaries(st.sampled_from(["a", "b", "ключ"]), _TYPES, min_size=1, max_size=3)
"""The fields of a model, by name."""


def schema_of(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Return the JSON schema of a model of such fields; None where pydantic has none for it."""
    try:
        found: dict[str, Any] = _model(fields).model_json_schema()
    except (pydantic.errors.PydanticSchemaGenerationError, TypeError):
        return None
    return found


# --- schemas that no pydantic model writes ----------------------------------------------------------------
_LEAVES: list[dict[str, Any]] = [
    {"type": "string", "maxLength": 6}, {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"}, {"type": "null"},
    {"type": "string", "format": "date"}, {"type": "string", "format": "ipv4"}, {"type": "boolean"},
    {"const": {"a": [1]}}, {"type": "integer", "minimum": -3, "exclusiveMaximum": 12}, {"type": ["integer", "null"]},
    {"type": "integer", "multipleOf": 5, "maximum": 100}, {"type": "number", "minimum": 0, "maximum": 1},
    {"enum": [1, "één", None, [], {"k": 0}]}, {"type": "string", "enum": ["日本", 'a"b', "\\", "\n"]},
    {"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/tree"}, {"not": {"type": "string"}},
    {"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}},
]  # fmt: skip
_NAMES = st.sampled_from(["a", "b", "$ref", "type", "a b", "имя", 'q"', "x/y~z", "__proto__"])


def _objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def one(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(_NAMES, inner, min_size=1, max_size=3))
        out: dict[str, Any] = {"type": "object", "properties": properties}
        if draw(st.booleans()):
            out["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
        if draw(st.booleans()):
            out["additionalProperties"] = draw(st.one_of(st.booleans(), inner))
        return out

    return one()


def _tuple(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


_RAW: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.sampled_from(_LEAVES),
    lambda inner: st.one_of(
        _objects(inner),
        st.builds(lambda i, n: {"type": "array", "items": i, "maxItems": n}, inner, st.integers(0, 3)),
        st.builds(_tuple, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda p: {"anyOf": p}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda p: {"oneOf": p}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda a, b: {"allOf": [a, b]}, _objects(inner), _objects(inner)),
        st.builds(lambda i: {"description": "said of it", "default": None, **i}, inner),
    ),
    max_leaves=6,
)  # fmt: skip
RAW = _objects(_RAW).map(
    lambda schema: {
        **schema,
        "$defs": {
            "leaf": {"type": "integer", "minimum": 1, "maximum": 9},
            "tree": {
                "type": "object",
                "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
                "required": ["v"],
                "additionalProperties": False,
            },
        },
    }
)
"""Objects of every keyword, among them ones that no grammar holds, with references to ``$defs``."""


def many(count: int, seed: int) -> list[dict[str, Any]]:
    """Return ``count`` schemas, half of them of models, the same ones for the same seed."""
    found: list[dict[str, Any]] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=2 * count + 20,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(FIELDS.map(schema_of), RAW)
    def collect(model: dict[str, Any] | None, raw: dict[str, Any]) -> None:
        found.extend(one for one in (model, raw) if one is not None)

    collect()
    unique = {json.dumps(one, sort_keys=True): one for one in found}
    return list(unique.values())[:count]
