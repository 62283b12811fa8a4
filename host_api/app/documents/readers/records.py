"""JSON, JSON lines, notebooks and YAML: their words with the names they stand under."""

from __future__ import annotations

import json
import re
from typing import Any

from host_api.app.documents.content import Limits, PageBuilder, Reading
from host_api.app.documents.readers import text as texts


def read(content: bytes, limits: Limits, *, lines: bool = False) -> Reading:
    """Return JSON as a page of lines ``name.of.it: value``; what is no JSON after all is read as text."""
    text, note = texts.decode(content)
    try:
        given: Any = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except (ValueError, RecursionError):
        return texts.read(content, limits)
    made = PageBuilder(limits)
    if isinstance(given, dict) and isinstance(given.get("cells"), list) and "nbformat" in given:
        _notebook(given["cells"], made)
    elif _is_table(given):
        heads = list(given[0])
        made.table([heads, *([_word(row.get(h)) for h in heads] for row in given)])
    else:
        kept: list[str] = []
        _walk(given, "", kept, limits.cells)
        made.text("\n".join(kept))
    return Reading(1, (made.page(1),), notes=[note] if note else [])


def _is_table(given: Any) -> bool:
    """Tell whether this is a list of objects with the same flat fields."""
    if not isinstance(given, list) or len(given) < 2 or not all(isinstance(row, dict) for row in given):
        return False
    heads = set(given[0])
    return bool(heads) and all(
        set(row) == heads and not any(isinstance(v, (dict, list)) for v in row.values()) for row in given
    )


def _word(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _walk(value: Any, path: str, kept: list[str], most: int) -> None:
    waiting: list[tuple[str, Any]] = [(path, value)]
    while waiting and len(kept) < most:  # not by recursion: a file may be nested a thousand deep
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend((f"{path}.{k}" if path else str(k), v) for k, v in reversed(value.items()))
        elif isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
            waiting.extend((f"{path}[{i}]", v) for i, v in reversed(list(enumerate(value, 1))))
        elif isinstance(value, list):
            kept.append(f"{path}: {', '.join(map(_word, value))}" if path else ", ".join(map(_word, value)))
        else:
            kept.append(f"{path}: {_word(value)}" if path else _word(value))


def _notebook(cells: list[Any], made: PageBuilder) -> None:
    for cell in cells:
        if not isinstance(cell, dict):
            continue
        source = cell.get("source", "")
        source = "".join(map(str, source)) if isinstance(source, list) else str(source)
        heading = re.match(r"(#{1,6})\s+(.*)", source) if cell.get("cell_type") == "markdown" else None
        if heading:
            made.heading(heading[2], len(heading[1]))
            source = source[heading.end() :]
        made.text(source)
        for output in cell.get("outputs", []) if isinstance(cell.get("outputs"), list) else []:
            said = output.get("text") if isinstance(output, dict) else None
            if said:
                made.text("".join(map(str, said)) if isinstance(said, list) else str(said))
