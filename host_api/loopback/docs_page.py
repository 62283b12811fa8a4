"""The page at ``/docs`` of both servers: an OpenAPI document as plain HTML. It has no script and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Sent with the page: whatever a description holds, it stays text."""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: light-dark(#0b57d0, #9ec1ff) }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1.5rem }
h1 small { font-weight: 400; opacity: .7 } a { color: var(--accent) }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0 }
summary { cursor: pointer; padding: .5rem .75rem } details[open] > summary { border-bottom: 1px solid var(--line) }
details > div { padding: .25rem .75rem .75rem }
code, pre { font: 13px/1.45 ui-monospace, monospace }
.method { display: inline-block; min-width: 4.2rem; font-weight: 600 }
table { border-collapse: collapse; width: 100% } td, th { border-bottom: 1px solid var(--soft); padding: .25rem .5rem;
text-align: left; vertical-align: top }
pre { background: var(--soft); border-radius: .5rem; overflow: auto; padding: .75rem }
"""


def page(document: Mapping[str, Any]) -> str:
    """Return the HTML page of an OpenAPI 3 document."""
    info = document["info"]
    title = escape(str(info["title"]))
    groups: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            group = (operation.get("tags") or ["other"])[0]
            groups.setdefault(group, []).append(_operation(document, method, path, operation))
    body = "".join(f"<h2>{escape(name)}</h2>{''.join(parts)}" for name, parts in groups.items())
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><h1>{title} <small>{escape(str(info['version']))}</small></h1>"
        f"<p>{escape(str(info.get('description', '')))}</p>"
        f'<p>For programs: <a href="openapi.json">openapi.json</a></p>{body}</html>'
    )


def _operation(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> str:
    inside = f"<p>{escape(str(operation.get('description') or ''))}</p>"
    rows = [
        (p["name"], f"{p['in']}, {_type(document, p.get('schema', {}))}", p.get("description", ""))
        for p in operation.get("parameters", [])
    ]
    for media in operation.get("requestBody", {}).get("content", {}).values():
        rows += list(_fields(document, media.get("schema", {})))
    if rows:
        cells = "".join(f"<tr><td><code>{escape(n)}</code><td>{escape(t)}<td>{escape(str(d))}" for n, t, d in rows)
        inside += f"<table><tr><th>field<th>type<th>{cells}</table>"
    statuses = ", ".join(f"{s} {escape(str(a.get('description', '')))}" for s, a in operation["responses"].items())
    inside += f"<p>Answers: {statuses}.</p>"
    summary = escape(str(operation.get("summary") or ""))
    return (
        f"<details><summary><span class=method>{method.upper()}</span> <code>{escape(path)}</code> {summary}</summary>"
        f"<div>{inside}</div></details>"
    )


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and description of each field of a body."""
    schema = _resolved(document, schema)
    required = schema.get("required", [])
    for name, one in schema.get("properties", {}).items():
        kind = _type(document, one)
        yield name, f"{kind}, required" if name in required else kind, one.get("description", "")


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    return document["components"]["schemas"][str(reference).rsplit("/", 1)[-1]]  # type: ignore[no-any-return]


def _type(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return a schema's type in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        kinds = [_type(document, o) for o in options]
        return " or ".join(k for k in dict.fromkeys(kinds) if k != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(json.dumps(v) for v in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(document, schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
