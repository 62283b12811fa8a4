"""JSON schemas as rules of llguidance's Lark, and the place of what it can't hold."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from typing import Any

from sidecar.text.schemas.walk import Path, children, pointer, rebased

WHITESPACE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # No \uXXXX: a model can't write half of a surrogate pair, and a string has as many characters as it seems to have.
    "json_allowed_escapes": 'nrbtf\\"',
}
"""How documents are written: on one line, with a space after each comma and colon, as ``json.dumps`` does."""

_WHOLE = "x-whole"
_KEPT = 2048
_faults: dict[bytes, str] = {}  # by content: the same tools are asked about with every request
_lock = threading.Lock()
_WORDS = (  # llguidance's, which speak to programmers of it → what somebody with a schema can do
    (
        "oneOf constraints are not supported",
        "oneOf can't be enforced where two parts may be right; use anyOf",
    ),
    ("schema is false", "nothing can be valid"),
    ("are not disjoint", "one name may match two of these patterns, which can't be enforced"),
)
_OUTSIDE = re.compile(r"Resource '([^']*)' is not present in a registry")
_UNKNOWN = re.compile(r'Unimplemented keys: \["([^"]+)"')
_NOISE = re.compile(r"^at \d+\(\d+\): |failed to compile JSON schema: ")


def json_rule(schema: dict[str, Any], path: Path = ()) -> str:
    """Return the right side of a Lark rule for documents of ``schema``, or of the part of it at ``path``.

    A part keeps the root of its schema: what it refers to is looked for there.
    """
    if path:
        document = {"$ref": pointer((_WHOLE, *path)), _WHOLE: rebased(schema, f"/{_WHOLE}")}
    else:
        document = rebased(schema, "")
    return f"%json {json.dumps(document | {'x-guidance': WHITESPACE})}"


def fault_of(schema: dict[str, Any], path: Path = ()) -> str:
    """Return why llguidance can't hold a schema or a part of it; "" when it can."""
    rule = json_rule(schema, path)
    key = hashlib.sha256(rule.encode("utf-8", "surrogatepass")).digest()
    with _lock:
        found = _faults.get(key)
    if found is None:
        import llguidance

        found = str(llguidance.LLMatcher.validate_grammar(_grammar(f"start: {rule}")))
        with _lock:
            if len(_faults) >= _KEPT:
                _faults.clear()
            _faults[key] = found
    return found


def _grammar(lark: str) -> str:
    import llguidance

    return str(llguidance.LLMatcher.grammar_from_lark(lark))


def innermost_fault(schema: dict[str, Any]) -> tuple[Path, str] | None:
    """Return the path and the reason of the innermost part that llguidance can't hold; None when it holds all.

    It names no place itself; so the parts are tried, from outside to inside.
    """
    reason = fault_of(schema)
    if not reason:
        return None
    path: Path = ()
    here: Any = schema
    while True:
        for step, child in children(here):
            if isinstance(child, dict) and (inner := fault_of(schema, path + step)):
                path, here, reason = path + step, child, inner
                break
        else:
            return path, _plain(reason)


def _plain(reason: str) -> str:
    """Return what to do, or llguidance's words without positions and the grammar it prints after them."""
    for theirs, ours in _WORDS:
        if theirs in reason:
            return ours
    if outside := _OUTSIDE.search(reason):
        return f"a reference to another document is not followed; put that under $defs: {outside[1][:100]}"
    if unknown := _UNKNOWN.search(reason):
        return f"{unknown[1]}: this keyword can't be enforced; leave it out"
    lines = [line for line in _NOISE.sub("", reason).strip().splitlines() if line.strip()]
    return _NOISE.sub("", lines[0])[:200] if lines else "unknown"
