"""What an answer's words are held to, as a rule of llguidance's Lark."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sidecar.engine.asked import Guide
from sidecar.errors import ApiError, bad_request
from sidecar.text.boxes import without_marks
from sidecar.text.lark import string
from sidecar.text.schemas import Prepared, SchemaError, json_rule, response_schema

_DIRECTIVE = re.compile(r"(?m)^[ \t]*%llguidance\b.*$")


def guide_rule(guide: Guide | None) -> tuple[str, tuple[str, ...]]:
    """Return the right side of a rule for the words of an answer ("": they are free), and remarks. Raises ApiError."""
    if guide is None:
        return "", ()
    if guide.kind in ("json_object", "json_schema"):
        schema = {"type": "object"} if guide.schema is None else without_marks(guide.schema)
        made = prepared(response_schema, schema, guide.strict, guide.place)
        return json_rule(made.schema), tuple(f"{guide.place}: {remark}" for remark in made.remarks)
    if guide.kind == "choice":
        return " | ".join(string(text) for text in guide.texts), ()
    if guide.kind == "regex":
        return _regex(guide.texts[0]), ()
    return _grammar(guide), ()


def prepared(make: Callable[..., Prepared], schema: Any, strict: Any, place: str) -> Prepared:
    """Return a schema made ready by ``make``. Raises a 400 that names its ``place``."""
    try:
        return make(schema, strict=bool(strict))
    except SchemaError as exc:
        raise unenforceable(place, exc) from exc


def unenforceable(place: str, exc: Exception) -> ApiError:
    """Return the 400 for a schema that can't be enforced."""
    return bad_request(f"{place}: this schema can't be enforced: {str(exc)[:400]}.", param=place.split(".")[0])


def _regex(pattern: str) -> str:
    """Return the rule of texts that a regular expression matches as a whole."""
    # llguidance knows no anchors; at both ends they say what is meant anyway.
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$") and not re.search(r"(?<!\\)(?:\\\\)*\\\$$", pattern):
        pattern = pattern[:-1]
    if not pattern:
        return '""'
    body = re.sub(r"\\.|/", lambda found: "\\/" if found[0] == "/" else found[0], pattern, flags=re.DOTALL)
    return "/" + body.replace("\n", "\\n") + "/"


def _grammar(guide: Guide) -> str:
    """Return a client's grammar, Lark or GBNF, as a grammar within the answer's. Raises ApiError."""
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        lark = any_to_lark(guide.texts[0])
    except (Exception, RecursionError) as exc:
        raise bad_request(
            f"{guide.place}: this grammar can't be read ({str(exc)[:200]}).", param=guide.place.split(".")[0]
        ) from exc
    return f"%lark {{\n{_DIRECTIVE.sub('', lark)}\n}}"
