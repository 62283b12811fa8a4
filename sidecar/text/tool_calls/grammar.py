"""The grammar of calls, made from a family's markup and the tools' schemas, in llguidance's Lark.

Rules are named ``call`` (one call) and ``group`` (calls with what opens and closes them). ``CallRules.opening`` is what
the free text before a group ends with; it is apart because a lazy lexeme must hold both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.text.lark import Lark, in_order, sequence, string
from sidecar.text.schemas import SchemaError, json_rule
from sidecar.text.schemas.kinds import is_text, literal_texts, properties_of
from sidecar.text.schemas.walk import resolve
from sidecar.text.tool_calls.gemma import gemma_rules
from sidecar.text.tool_calls.markup import Arguments, Markup


@dataclass(frozen=True)
class CallRules:
    """``begin``: marker that opens a group, "" where calls stand bare. ``group``: name of the rule of what follows it.

    ``heads``: of bare calls, what each begins with: free text must not.
    """

    begin: str
    group: str
    between: str
    heads: tuple[str, ...] = field(default=())


def call_rules(lark: Lark, markup: Markup, schemas: Mapping[str, dict[str, Any]], *, one: bool) -> CallRules:
    """Add the rules of calls of the tools whose prepared ``schemas`` are given. Raises SchemaError."""
    calls = []
    heads = []
    for i, (name, schema) in enumerate(schemas.items()):
        head = markup.head + name + markup.mid
        body = _arguments(lark, f"arguments_{i}", markup, name, schema)
        if not markup.begin:
            # A lazy lexeme: a string would be no longer than the free text that may stand in its place.
            lark.rule(f"head_{i}[lazy]", string(head))
            heads.append(markup.head + name)
            calls.append(lark.rule(f"call_{i}", sequence(f"head_{i}", body, lark.literal(markup.tail))))
        else:
            calls.append(lark.rule(f"call_{i}", sequence(lark.literal(head), body, lark.literal(markup.tail))))
    lark.rule("call", " | ".join(calls))
    more = f" ({sequence(lark.literal(markup.sep), 'call')})*" if markup.sep is not None and not one else ""
    group = lark.rule("group", sequence("call" + more, lark.literal(markup.end)))
    return CallRules(begin=markup.begin, group=group, between=markup.between, heads=tuple(heads))


def _arguments(lark: Lark, rule: str, markup: Markup, name: str, schema: dict[str, Any]) -> str:
    kind = markup.arguments
    if kind is Arguments.JSON:
        return lark.rule(rule, json_rule(schema))
    try:
        if kind is Arguments.GEMMA:
            return gemma_rules(lark, rule, schema)
        if kind is Arguments.TAGS:
            return lark.rule(rule, _tags(lark, rule, markup, schema))
        return lark.rule(rule, _keywords(lark, rule, schema))
    except SchemaError as exc:
        raise SchemaError((name, *exc.path), f"{exc.reason}; {markup.name}'s calls can't say it") from exc


def _tags(lark: Lark, rule: str, markup: Markup, schema: dict[str, Any]) -> str:
    names, required, others = properties_of(schema)
    line = "\n" if markup.lines else ""
    items = []
    for i, (key, one) in enumerate(names.items()):
        opening = lark.literal(markup.key + key + markup.value + line)
        done = line + markup.done
        items.append((lark.rule(f"{rule}_{i}", f"{opening} {_tag_value(lark, f'{rule}_{i}', schema, key, one, done)}"),
                      key in required))  # fmt: skip
    body = in_order(items, "")
    if others is not False:
        value = json_rule(others if isinstance(others, dict) else {})
        lark.rule(f"{rule}_any", value)
        other = sequence(
            lark.literal(markup.key), "OTHER_NAME", lark.literal(markup.value + line), f"{rule}_any",
            lark.literal(line + markup.done),
        )  # fmt: skip
        lark.rule("OTHER_NAME", "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/")
        body = f"{body} ({lark.rule(f'{rule}_other', other)})*".strip()
    return body or '""'


def _tag_value(lark: Lark, rule: str, root: dict[str, Any], key: str, schema: Any, done: str) -> str:
    """Return the rule of a value and of what closes it: a text stands bare, everything else is JSON."""
    text, null = is_text(schema, root)
    if not text:
        lark.rule(f"{rule}_json", json_rule(root, ("properties", key)))
        return sequence(f"{rule}_json", lark.literal(done))
    close = lark.literal(done)
    options = [sequence(string("null"), close)] if null else []
    for one in _texts(schema, root):
        known = literal_texts(one)
        if known is not None:
            if any(done.strip() in value for value in known):
                raise SchemaError(("properties", key), "a value has the markup's own end in it")
            options += [sequence(string(value) if value else "", close) for value in known]
        else:
            options.append(_free_text(lark, f"{rule}_text{len(options)}", key, one, done))
    return f"({' | '.join(options)})" if len(options) > 1 else options[0]


def _texts(schema: Any, root: Any) -> list[dict[str, Any]]:
    """Return the alternatives of a schema of strings, those of null left out."""
    if not isinstance(schema, dict) or schema.get("type") == "null":
        return []
    if isinstance(schema.get("$ref"), str):
        return _texts(resolve(root, schema["$ref"]), root)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return [text for one in schema[word] for text in _texts(one, root)]
    return [schema]


def _free_text(lark: Lark, rule: str, key: str, schema: dict[str, Any], done: str) -> str:
    """Return the rule of a bare text and its end; a lazy lexeme ends with the first end marker."""
    for word in ("pattern", "format", "allOf"):
        if word in schema:
            raise SchemaError(("properties", key, word), "texts stand bare here")
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    many = "*" if not low and high is None else f"{{{low},{'' if high is None else high}}}"
    parts = lark.symbols.parts(done)
    if isinstance(parts[0], int):
        return sequence(f"/(?s:.{many})/", lark.literal(done))
    body, rest = string(parts[0]), " ".join(f"<[{p}]>" if isinstance(p, int) else string(p) for p in parts[1:])
    upper = rule.upper()
    lark.rule(upper, f"/(?s:.){many}/")
    lark.rule(f"{rule}[lazy]", f"{upper} {body}")
    return sequence(rule, rest)


def _keywords(lark: Lark, rule: str, schema: dict[str, Any]) -> str:
    """Return the rule of keyword arguments. Texts, lists and objects are written as JSON, which Python reads too."""
    names, required, others = properties_of(schema)
    if others is not False and names:
        raise SchemaError(("additionalProperties",), "a call has no arguments that aren't named")
    items = []
    for i, (key, one) in enumerate(names.items()):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise SchemaError(("properties", key), "it is no name of an argument")
        kind = one.get("type") if isinstance(one, dict) else None
        if kind == "boolean" and not {"const", "enum"} & one.keys():
            value = '("True" | "False")'
        else:
            value = lark.rule(f"{rule}_{i}", json_rule(schema, ("properties", key)))
        items.append((lark.rule(f"{rule}_{i}_is", f"{string(key + '=')} {value}"), key in required))
    return in_order(items, '", "') or '""'
