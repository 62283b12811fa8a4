"""Closing the objects of a schema that say nothing about properties they don't name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sidecar.text.schemas.walk import resolve, subschemas

APPLICATORS = ("allOf", "anyOf", "oneOf", "$ref", "if")
OBJECT_WORDS = frozenset(["properties", "patternProperties", "additionalProperties", "required", "minProperties"])


def close_objects(schema: dict[str, Any]) -> None:
    """Forbid other properties in objects that say nothing about them and that no other subschema adds to."""
    joined: set[int] = set()
    try:
        _find_joined(schema, schema, False, joined, set())
    except LookupError:  # a reference by anchor or address: whom it reaches isn't known
        return
    for _, part in list(subschemas(schema)):
        if id(part) in joined or any(word in part for word in APPLICATORS):
            continue
        names = part.get("properties")
        if not isinstance(names, dict) or {"additionalProperties", "patternProperties"} & part.keys():
            continue
        if part.get("minProperties", 0) > len(names) or not set(part.get("required") or ()) <= names.keys():
            continue
        if not names and part is not schema:
            continue
        part["additionalProperties"] = False


def _find_joined(root: Any, part: Any, with_others: bool, joined: set[int], seen: set[tuple[int, bool]]) -> None:
    """Collect the schemas that apply to a value together with another one's ``properties``."""
    if not isinstance(part, dict) or (id(part), with_others) in seen:
        return
    seen.add((id(part), with_others))
    if with_others:
        joined.add(id(part))
    here = with_others or bool(OBJECT_WORDS & part.keys()) or sum(word in part for word in APPLICATORS) > 1
    for word in ("allOf", "anyOf", "oneOf"):
        options = part.get(word)
        if isinstance(options, list):
            for one in options:
                _find_joined(root, one, here or (word == "allOf" and len(options) > 1), joined, seen)
    if isinstance(part.get("$ref"), str):
        _find_joined(root, resolve(root, part["$ref"]), here, joined, seen)
    for child in _inner(part):
        _find_joined(root, child, False, joined, seen)


def _inner(part: dict[str, Any]) -> Iterator[Any]:
    """Yield the subschemas that apply to values inside the one that ``part`` applies to."""
    for word in ("properties", "patternProperties"):
        if isinstance(part.get(word), dict):
            yield from part[word].values()
    for word in ("additionalProperties", "items", "contains"):
        yield part.get(word)
    yield from part.get("prefixItems") or ()
