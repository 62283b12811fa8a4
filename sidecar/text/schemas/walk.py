"""Where the subschemas of a JSON schema are, and what its references point to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

#: Keywords whose value is a schema, a list of schemas, or a map of schemas.
ONE = (
    "additionalProperties", "additionalItems", "items", "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
MANY = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

MAX_DEPTH = 64
"""Levels of nesting a schema may have; deeper ones are refused before they are walked."""

Path = tuple[str, ...]


def children(schema: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the direct subschemas of a schema, each with its path from it."""
    if not isinstance(schema, dict):
        return
    for key in ONE:
        if isinstance(schema.get(key), dict | bool):
            yield (key,), schema[key]
    for key in MANY:
        if isinstance(schema.get(key), list):
            yield from (((key, str(i)), one) for i, one in enumerate(schema[key]))
    for key in NAMED:
        if isinstance(schema.get(key), dict):
            yield from (((key, name), one) for name, one in schema[key].items())


def subschemas(schema: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a schema and all schemas in it that are objects, outer ones first, each with its path from the root."""
    if isinstance(schema, dict):
        yield path, schema
    for step, child in children(schema):
        yield from subschemas(child, path + step)


def depth(value: Any) -> int:
    """Return how many lists and objects stand in each other, without recursion."""
    level, deepest = [value], 0
    while level and deepest <= MAX_DEPTH * 4:
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        deepest += 1
    return deepest


def dotted(path: Path) -> str:
    """Return a path as people write it: ``properties.when.format``; "the schema" for the root."""
    return ".".join(path) if path else "the schema"


def pointer(path: Path) -> str:
    """Return a path as a JSON pointer in a reference, ``#/properties/when``, percent-encoded (RFC 6901, section 6)."""
    return "#" + "".join("/" + quote(s.replace("~", "~0").replace("/", "~1"), _PLAIN, errors="replace") for s in path)


_PLAIN = "!$&'()*+,;=:@~"  # what may stand in a fragment as it is


def steps(reference: str) -> Path:
    """Return the path of a local reference. Names that should be percent-encoded and aren't are taken as they are."""
    if reference == "#":
        return ()
    return tuple(unquote(s).replace("~1", "/").replace("~0", "~") for s in reference[2:].split("/"))


def resolve(root: Any, reference: str) -> Any:
    """Return what a local reference points to. Raises LookupError where it points nowhere or outside."""
    if reference != "#" and not reference.startswith("#/"):
        raise LookupError(reference)
    return at(root, steps(reference))


def at(root: Any, path: Path) -> Any:
    """Return what stands at a path. Raises LookupError for nothing."""
    found = root
    for step in path:
        if isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        elif isinstance(found, dict) and step in found:
            found = found[step]
        else:
            raise LookupError(pointer(path))
    return found


def rebased(schema: Any, prefix: str) -> Any:
    """Return a copy whose local references lead to where it stands once it is put at ``prefix`` ("/whole").

    They are percent-encoded then, whatever they were: pydantic and others write the names of classes as they are.
    """
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    reference = out.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        out["$ref"] = "#" + prefix + pointer(steps(reference))[1:]
    for key in ONE:
        if isinstance(out.get(key), dict):
            out[key] = rebased(out[key], prefix)
    for key in MANY:
        if isinstance(out.get(key), list):
            out[key] = [rebased(one, prefix) for one in out[key]]
    for key in NAMED:
        if isinstance(out.get(key), dict):
            out[key] = {name: rebased(one, prefix) for name, one in out[key].items()}
    return out
