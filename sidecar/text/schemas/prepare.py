"""What is done to a schema before it becomes a grammar.

A schema is enforced or refused, never quietly half enforced: what a grammar can't hold is a ``SchemaError`` with its
path. Two things are remarks instead, where the client did not say ``strict``: a ``format`` nobody knows (an annotation,
says JSON Schema), and keywords of a *tool's* parameters that can't be held (OpenAI holds non-strict calls to nothing).

What is changed keeps every document valid for the client's own schema:

- Objects with ``properties`` and no word about others are closed: a small model would invent properties until the
  limit. Not where another subschema adds properties to the same object (``allOf``, ``$ref`` beside keywords, …).
- ``propertyNames`` of an enumeration or pattern becomes properties or ``patternProperties``, which can be held.
- Older drafts' ``exclusiveMinimum: true``, list-valued ``items`` and ``dependencies`` are written as today's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sidecar.text.schemas.closing import APPLICATORS, OBJECT_WORDS, close_objects
from sidecar.text.schemas.compile import innermost_fault
from sidecar.text.schemas.walk import MAX_DEPTH, Path, at, depth, dotted, subschemas

FORMATS = frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"])
"""The formats llguidance knows."""

UNHELD = frozenset([
    "not", "uniqueItems", "contains", "minContains", "maxContains", "propertyNames", "if", "then", "else",
    "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems",
    "$dynamicRef", "$recursiveRef",
])  # fmt: skip
"""The keywords no grammar holds."""

_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f]")  # control characters whose only escape is by number


class SchemaError(ValueError):
    """A schema that can't be held: ``path`` says where, ``reason`` what and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{dotted(path)}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True)
class Prepared:
    """A schema that a grammar holds, and what of the client's it does not."""

    schema: dict[str, Any]
    remarks: tuple[str, ...] = ()


def response_schema(schema: Any, *, strict: bool) -> Prepared:
    """Return the schema of a response. Raises SchemaError."""
    return _prepared(schema, strict=strict, loose=False)


def arguments_schema(schema: Any, *, strict: bool) -> Prepared:
    """Return the schema of a tool's arguments: always an object, ``{}`` where there are no parameters.

    Raises SchemaError.
    """
    if schema is None or schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise SchemaError((), "parameters are a JSON schema of an object")
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise SchemaError(("type",), "arguments are always an object")
    schema = {**schema, "type": "object"}
    if not any(word in schema for word in (*OBJECT_WORDS, *APPLICATORS, "propertyNames", "const", "enum")):
        schema["additionalProperties"] = False
    return _prepared(schema, strict=strict, loose=not strict)


def _prepared(schema: Any, *, strict: bool, loose: bool) -> Prepared:
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise SchemaError((), "a JSON schema is an object")
    if depth(schema) > MAX_DEPTH:
        raise SchemaError((), f"it is nested more than {MAX_DEPTH} levels deep")
    schema = copy.deepcopy(schema)
    named = str(schema.get("$schema"))
    if "draft-03" in named:
        raise SchemaError(("$schema",), "draft 3 is not known; draft 4 and later are")
    old = any(f"draft-0{n}" in named for n in (4, 6, 7))
    schema.pop("$schema", None)  # what follows is written as 2020-12
    remarks: list[str] = []
    for path, part in list(subschemas(schema)):
        _well_formed(part, path)
        if old and path and {"$id", "id"} & part.keys() and isinstance(part.get("$id", part.get("id")), str):
            raise SchemaError((*path, "$id"), "an address of its own inside a schema is known from 2019-09 on")
        _modernised(part, old)
        _characters(part, path)
        _formats(part, path, strict, remarks)
        _property_names(part)
        _unheld(part, path, loose, remarks)
    close_objects(schema)
    _compiles(schema, loose, remarks)
    return Prepared(schema, tuple(remarks))


def _compiles(schema: dict[str, Any], loose: bool, remarks: list[str]) -> None:
    """Raise SchemaError for what llguidance can't hold; ``loose``: let go of it instead, as often as it takes."""
    for _ in range(20):
        fault = innermost_fault(schema)
        if fault is None:
            return
        path, reason = fault
        part = at(schema, path)
        dropped = next((k for k in ("oneOf", "pattern", "patternProperties", "format") if k in part), None)
        if not loose or dropped is None:
            raise SchemaError(path, reason)
        if dropped == "oneOf" and "anyOf" not in part:
            part["anyOf"] = part["oneOf"]
        del part[dropped]
        remarks.append(f"{dotted((*path, dropped))} is not enforced ({reason})")
    raise SchemaError((), "too much of it can't be enforced")


_FORMS = {
    "required": list, "enum": list, "properties": dict, "patternProperties": dict, "$defs": dict, "definitions": dict,
    "allOf": list, "anyOf": list, "oneOf": list, "$ref": str,
}  # fmt: skip


def _well_formed(part: dict[str, Any], path: Path) -> None:
    for word, form in _FORMS.items():
        if word in part and not isinstance(part[word], form):
            kind = {list: "a list", dict: "an object", str: "a text"}[form]
            raise SchemaError((*path, word), f"this is not JSON Schema: {word} is {kind}")


def _modernised(part: dict[str, Any], old: bool) -> None:
    """Write keywords of older drafts as those of 2020-12. ``old``: a reference has no siblings (to draft 7)."""
    if old and "$ref" in part:
        for word in part.keys() - {"$ref", "$defs", "definitions"}:
            del part[word]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(part.get(exclusive), bool) and part.pop(exclusive) and bound in part:
            part[exclusive] = part.pop(bound)
    if isinstance(part.get("items"), list):
        part["prefixItems"] = part.pop("items")
        if "additionalItems" in part:
            part["items"] = part.pop("additionalItems")
    else:
        part.pop("additionalItems", None)  # without a list of items it has no meaning
    for word in _COUNTS:
        if isinstance(part.get(word), float) and part[word].is_integer():
            part[word] = int(part[word])


def _characters(part: dict[str, Any], path: Path) -> None:
    """Refuse texts that must be written and can't be: see ``WHITESPACE`` for why no escapes by number are."""
    must = {"const": part.get("const"), "enum": part.get("enum"), "properties": list(part.get("properties") or ())}
    for word, values in must.items():
        if any(_UNWRITABLE.search(text) for text in _texts(values)):
            raise SchemaError((*path, word), "it has a control character, which can't be written")


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        yield from value
        for one in value.values():
            yield from _texts(one)


def _formats(part: dict[str, Any], path: Path, strict: bool, remarks: list[str]) -> None:
    name = part.get("format")
    if name is None or name in FORMATS:
        return
    if strict:
        known = ", ".join(sorted(FORMATS))
        raise SchemaError((*path, "format"), f"{str(name)!r} can't be enforced; known are {known}")
    remarks.append(f"{dotted((*path, 'format'))}: {str(name)!r} is taken as a remark")
    del part["format"]


def _property_names(part: dict[str, Any]) -> None:
    """Write ``propertyNames`` as properties or a pattern, where there are no others."""
    names = part.get("propertyNames")
    if names is True or names == {} or (isinstance(names, dict) and names == {"type": "string"}):
        del part["propertyNames"]
        return
    rest = part.get("additionalProperties", True)
    if not isinstance(names, dict) or rest is False or OBJECT_WORDS & part.keys() - {"additionalProperties"}:
        return
    words = set(names) - {"type", "title", "description", "minLength", "maxLength"}
    if words in ({"enum"}, {"const"}) and not {"minLength", "maxLength"} & names.keys():
        known = names.get("enum", [names.get("const")])
        part["properties"] = {n: copy.deepcopy(rest) for n in known if isinstance(n, str)}
    elif words == {"pattern"} and not {"minLength", "maxLength"} & names.keys():
        part["patternProperties"] = {names["pattern"]: rest}
    elif not words:
        low, high = names.get("minLength", 0), names.get("maxLength", "")
        part["patternProperties"] = {f"^[\\s\\S]{{{low},{high}}}$": rest}
    else:
        return
    part["additionalProperties"] = False
    del part["propertyNames"]


def _unheld(part: dict[str, Any], path: Path, loose: bool, remarks: list[str]) -> None:
    """Refuse, or let go of with a remark, what no grammar holds."""
    found = [word for word in sorted(UNHELD & part.keys()) if _says_something(part, word)]
    wanted = part.get("minProperties", 0)
    if isinstance(wanted, int) and wanted - len(part.get("required") or ()) > 1:
        # Names beyond ``properties`` are not kept from coming twice, and twice the same name is one property.
        found.append("minProperties")
    for word in UNHELD & part.keys() - set(found):
        del part[word]
    for word in found:
        if not loose:
            raise SchemaError((*path, word), "this keyword can't be enforced; leave it out")
        remarks.append(f"{dotted((*path, word))} is not enforced")
        del part[word]


def _says_something(part: dict[str, Any], word: str) -> bool:
    value = part[word]
    if word == "not":
        return value is not False
    if word == "uniqueItems":
        return bool(value) and not (isinstance(part.get("maxItems"), int) and part["maxItems"] < 2)
    if word in ("then", "else"):
        return "if" in part
    if word in ("minContains", "maxContains"):
        return "contains" in part
    if word in ("if", "unevaluatedProperties", "unevaluatedItems"):
        return value is not True and not (word == "if" and not {"then", "else"} & part.keys())
    return not (word in ("dependentRequired", "dependentSchemas", "dependencies") and value == {})
