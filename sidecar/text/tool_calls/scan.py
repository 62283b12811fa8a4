"""Where values end: scanners that take a text piece by piece, and readers of the values that are not JSON."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_OPEN, _CLOSE = "{[(", "}])"


class JsonScanner:
    """Finds the end of one JSON object or array, whatever stands in its strings."""

    def __init__(self) -> None:
        self._depth = 0
        self._string = False
        self._escaped = False

    def feed(self, text: str) -> int | None:
        """Return how much of ``text`` belongs to the value when it ends in it, else None."""
        for i, c in enumerate(text):
            if self._string:
                if self._escaped:
                    self._escaped = False
                elif c == "\\":
                    self._escaped = True
                elif c == '"':
                    self._string = False
            elif c == '"':
                self._string = True
            elif c in "{[":
                self._depth += 1
            elif c in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return i + 1
        return None


def entry_end(text: str, quotes: tuple[str, ...], *, escapes: bool) -> int | None:
    """Return where the first entry of a list of entries ends: its comma, or the bracket that closes the list.

    ``quotes``: what strings stand between. None when the text ends before.
    """
    depth, i, quote = 0, 0, ""
    while i < len(text):
        if quote:
            if escapes and text[i] == "\\":
                i += 2
                continue
            if text.startswith(quote, i):
                i += len(quote)
                quote = ""
                continue
        elif found := next((q for q in quotes if text.startswith(q, i)), ""):
            quote = found
            i += len(quote)
            continue
        elif text[i] in _OPEN:
            depth += 1
        elif text[i] in _CLOSE:
            if not depth:
                return i
            depth -= 1
        elif text[i] == "," and not depth:
            return i
        i += 1
    return None


def python_value(text: str) -> Any:
    """Return a value written as Python or as JSON. Raises ValueError."""
    text = text.strip()
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as exc:
        raise ValueError(f"{text[:80]!r} is no value") from exc


def tagged_value(text: str) -> Any:
    """Return a value that stands bare between tags: JSON, Python, or else a text."""
    try:
        return python_value(text)
    except ValueError:
        return text


_BARE_KEY = re.compile(r"\s*([^\s:{}\[\],]+)\s*:")


def gemma_value(text: str, quote: str) -> Any:
    """Return a value in Gemma's notation, where strings stand between ``quote``. Raises ValueError."""
    value, rest = _gemma(text.strip(), quote)
    if rest.strip():
        raise ValueError(f"{rest[:80]!r} follows a value")
    return value


def _gemma(text: str, quote: str) -> tuple[Any, str]:
    if text.startswith(quote):
        inside, end, rest = text[len(quote) :].partition(quote)
        if not end:
            raise ValueError("a text has no end")
        return inside, rest
    if text.startswith("["):
        items: list[Any] = []
        rest = text[1:].lstrip()
        while not rest.startswith("]"):
            value, rest = _gemma(rest, quote)
            items.append(value)
            rest = _after_comma(rest, "]")
        return items, rest[1:]
    if text.startswith("{"):
        found: dict[str, Any] = {}
        rest = text[1:].lstrip()
        while not rest.startswith("}"):
            if rest.startswith(quote):
                key, rest = _gemma(rest, quote)
                rest = rest.lstrip().removeprefix(":")
            elif bare := _BARE_KEY.match(rest):
                key, rest = bare[1], rest[bare.end() :]
            else:
                raise ValueError("a name is missing")
            found[str(key)], rest = _gemma(rest.lstrip(), quote)
            rest = _after_comma(rest, "}")
        return found, rest[1:]
    stop = next((i for i, c in enumerate(text) if c in ",]}"), len(text))
    return json.loads(text[:stop].strip()), text[stop:]


def _after_comma(text: str, close: str) -> str:
    text = text.lstrip()
    if text.startswith(","):
        return text[1:].lstrip()
    if not text.startswith(close):
        raise ValueError("a comma is missing")
    return text
