"""Grammars in llguidance's Lark, put together rule by rule."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sidecar.text.detokenizer import Symbols


class Lark:
    """Rules being collected. A name is given once."""

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols
        self.rules: dict[str, str] = {}

    def literal(self, text: str) -> str:
        """Return a marker as a sequence of strings and control tokens; "" for an empty one."""
        parts = self.symbols.parts(text)
        return " ".join(f"<[{p}]>" if isinstance(p, int) else string(p) for p in parts)

    def rule(self, name: str, body: str) -> str:
        """Add a rule and return its name."""
        self.rules[name] = body
        return name

    def text(self) -> str:
        """Return the collected rules."""
        return "\n".join(f"{name}: {body}" for name, body in self.rules.items())


def string(text: str) -> str:
    """Return a text as a string of Lark."""
    return json.dumps(text)


def sequence(*parts: str) -> str:
    """Return parts in a row, empty ones left out."""
    return " ".join(p for p in parts if p) or '""'


def in_order(items: Iterable[tuple[str, bool]], between: str) -> str:
    """Return items in a row with a separator; those that are not required (False) may be left out."""
    if not between:
        return " ".join(text if must else f"({text})?" for text, must in items)
    tail = ""
    rest = ""  # what may follow when something stands before already
    for text, must in reversed(list(items)):
        after = f"{between} {text}"
        first = f"{text} {rest}".strip()
        tail = first if must else (f"({first} | {tail})" if tail else f"({first})?")
        rest = f"{after} {rest}".strip() if must else f"({after})? {rest}".strip()
    return tail
