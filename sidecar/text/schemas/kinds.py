"""What a schema says about the types of its values, for markup that writes strings without quotes."""

from __future__ import annotations

from typing import Any

from sidecar.text.schemas.prepare import SchemaError
from sidecar.text.schemas.walk import MAX_DEPTH, resolve


def is_text(schema: Any, root: Any) -> tuple[bool, bool]:
    """Return whether a schema takes strings alone, null apart, and whether it takes null.

    Formats that write strings bare can do so only where nothing else could be meant.
    """
    kinds = _kinds(schema, root, 0)
    return kinds is not None and "string" in kinds and kinds <= {"string", "null"}, bool(kinds and "null" in kinds)


def _kinds(schema: Any, root: Any, level: int) -> set[str] | None:
    """Return the JSON types a schema may take; None when it doesn't say."""
    if not isinstance(schema, dict) or level > MAX_DEPTH:
        return None
    if isinstance(schema.get("$ref"), str) and set(schema) <= {"$ref", "title", "description", "default"}:
        try:
            return _kinds(resolve(root, schema["$ref"]), root, level + 1)
        except LookupError:
            return None
    if "type" in schema:
        kind = schema["type"]
        return set(kind) if isinstance(kind, list) else {str(kind)}
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return {"string" if isinstance(v, str) else "null" if v is None else "other" for v in values}
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            parts = [_kinds(one, root, level + 1) for one in schema[word]]
            return None if None in parts else set().union(*(p for p in parts if p is not None))
    return None


def literal_texts(schema: dict[str, Any]) -> list[str] | None:
    """Return the strings of an enumeration or constant; None for a schema that is neither."""
    if "const" in schema:
        return [schema["const"]] if isinstance(schema["const"], str) else None
    if isinstance(schema.get("enum"), list):
        return [v for v in schema["enum"] if isinstance(v, str)]
    return None


def properties_of(schema: dict[str, Any]) -> tuple[dict[str, Any], frozenset[str], Any]:
    """Return an object's properties, which of them are required, and the schema of others (False: there are none).

    Raises SchemaError for objects that are more than that.
    """
    for word in ("allOf", "anyOf", "oneOf", "$ref", "patternProperties", "const", "enum", "minProperties"):
        if word in schema and not (word == "minProperties" and not schema[word]):
            raise SchemaError((word,), "only plain properties can be enforced here")
    names = schema.get("properties") or {}
    required = frozenset(schema.get("required") or ())
    others = schema.get("additionalProperties", not names)
    if not required <= names.keys():
        raise SchemaError(("required",), "it names what isn't in properties")
    return names, required, others
