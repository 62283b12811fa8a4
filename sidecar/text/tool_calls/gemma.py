"""The grammar of Gemma 4's arguments: ``name:<|"|>text<|"|>,n:3,list:[1,2],inner:{a:true}``."""

from __future__ import annotations

from typing import Any

from sidecar.text.lark import Lark, in_order, string
from sidecar.text.schemas import SchemaError, json_rule
from sidecar.text.schemas.kinds import literal_texts, properties_of
from sidecar.text.schemas.walk import Path, resolve

_QUOTE = '<|"|>'
_BY_JSON = ("integer", "number", "boolean", "null")
_NOT_HERE = ("allOf", "patternProperties", "minProperties", "maxProperties")


def gemma_rules(lark: Lark, rule: str, schema: dict[str, Any]) -> str:
    """Add the rules of an object's inside and return its name. Raises SchemaError."""
    return _Gemma(lark, rule, schema).inside(schema, ())


class _Gemma:
    def __init__(self, lark: Lark, prefix: str, root: dict[str, Any]) -> None:
        self._lark = lark
        self._prefix = prefix
        self._root = root
        self._known: dict[int, str] = {}
        self._quote = lark.literal(_QUOTE)
        self._bare_quote = isinstance(lark.symbols.parts(_QUOTE)[0], str)

    def _name(self) -> str:
        return f"{self._prefix}_{len(self._lark.rules)}"

    def inside(self, schema: dict[str, Any], path: Path) -> str:
        """Return the rule of what stands between an object's braces."""
        try:
            names, required, others = properties_of(schema)
        except SchemaError as exc:
            raise SchemaError(path + exc.path, exc.reason) from exc
        items = []
        for key, one in names.items():
            if not key or any(c in key for c in ' :,{}[]"<>\n'):
                raise SchemaError((*path, "properties", key), "this name can't be written")
            value = self.value(one, (*path, "properties", key))
            item = self._lark.rule(self._name(), f"{string(key + ':')} {value}")
            items.append((item, key in required))
        if others is not False:
            if names:
                raise SchemaError((*path, "additionalProperties"), "names that aren't known can't be enforced")
            other = self.value(others if isinstance(others, dict) else {}, (*path, "additionalProperties"))
            self._lark.rule("GEMMA_NAME", "/[A-Za-z_][A-Za-z0-9_-]{0,63}/")
            item = self._lark.rule(self._name(), f'GEMMA_NAME ":" {other}')
            return self._lark.rule(self._name(), f'({item} ("," {item})*)?')
        return self._lark.rule(self._name(), in_order(items, '","') or '""')

    def value(self, schema: Any, path: Path) -> str:
        """Return the rule of a value."""
        if schema is True or schema == {}:
            schema = {"type": [*_BY_JSON, "string"]}
        if not isinstance(schema, dict):
            raise SchemaError(path, "no value fits")
        if id(schema) in self._known:
            return self._known[id(schema)]
        name = self._known[id(schema)] = self._name()
        self._lark.rule(name, "")  # a place for what refers to itself
        self._lark.rules[name] = " | ".join(self._options(schema, path))
        return name

    def _options(self, schema: dict[str, Any], path: Path) -> list[str]:
        for word in _NOT_HERE:
            if schema.get(word):
                raise SchemaError((*path, word), "it can't be enforced")
        if isinstance(schema.get("$ref"), str):
            try:
                return [self.value(resolve(self._root, schema["$ref"]), path)]
            except LookupError as exc:
                raise SchemaError((*path, "$ref"), "it points nowhere") from exc
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return [self.value(one, (*path, word, str(i))) for i, one in enumerate(schema[word])]
        if "const" in schema or "enum" in schema:
            return self._literals(schema, path)
        kinds = schema.get("type", [*_BY_JSON, "string"])
        return [self._kind(kind, schema, path) for kind in ([kinds] if isinstance(kinds, str) else kinds)]

    def _literals(self, schema: dict[str, Any], path: Path) -> list[str]:
        texts = literal_texts(schema) or []
        others = [v for v in schema.get("enum", [schema.get("const")]) if not isinstance(v, str)]
        if any(isinstance(v, dict | list) for v in others) or any(_QUOTE in t for t in texts):
            raise SchemaError(path, "this constant can't be written")
        quoted = [" ".join(p for p in (self._quote, string(t) if t else "", self._quote) if p) for t in texts]
        if others:
            quoted.append(self._lark.rule(self._name(), json_rule({"enum": others})))
        return quoted

    def _kind(self, kind: str, schema: dict[str, Any], path: Path) -> str:
        if kind == "string":
            return self._text(schema, path)
        if kind == "object":
            return f'"{{" {self.inside(schema, path)} "}}"'
        if kind == "array":
            return self._array(schema, path)
        part = {k: v for k, v in schema.items() if k not in ("properties", "items", "required")} | {"type": kind}
        return self._lark.rule(self._name(), json_rule(part))

    def _text(self, schema: dict[str, Any], path: Path) -> str:
        for word in ("pattern", "format"):
            if word in schema:
                raise SchemaError((*path, word), "texts stand bare here")
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        many = "*" if not low and high is None else f"{{{low},{'' if high is None else high}}}"
        name = self._name()
        self._lark.rule(name.upper(), f"/(?s:.){many}/")
        if self._bare_quote:
            self._lark.rule(f"{name}[lazy]", f"{name.upper()} {self._quote}")
            return f"{self._quote} {name}"
        return f"{self._quote} {name.upper()} {self._quote}"

    def _array(self, schema: dict[str, Any], path: Path) -> str:
        if "prefixItems" in schema:
            raise SchemaError((*path, "prefixItems"), "it can't be enforced")
        item = self.value(schema.get("items", True), (*path, "items"))
        low, high = int(schema.get("minItems", 0)), schema.get("maxItems")
        if high == 0:
            return '"[" "]"'
        more = f'("," {item}){{{max(0, low - 1)},{"" if high is None else high - 1}}}'
        return f'"[" {item} {more} "]"' if low else f'"[" ({item} {more})? "]"'
