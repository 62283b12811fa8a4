"""Lengths of time as people and Ollama's clients write them."""

from __future__ import annotations

import math
import re

_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_ADVICE = 'give seconds (90), a time such as "5m" or "1h30m", 0 for no time or -1 for ever'
_ADVICE_FINITE = 'give seconds (90) or a time such as "5m" or "1h30m"'


def parse(value: str | float) -> float:
    """Return the seconds of ``90``, "90", "5m", "1h30m"; negative is for ever (infinity). Raises ValueError."""
    if isinstance(value, str):
        text = value.strip().lower()
        negative = text.startswith("-")
        body = text.removeprefix("-")
        pieces = _PARTS.findall(body)
        if body.startswith("-"):
            raise ValueError(_ADVICE)
        if body and pieces and "".join(n + u for n, u in pieces) == body:
            seconds = sum(float(n) * _SECONDS[u] for n, u in pieces)
        else:
            try:
                seconds = float(body)
            except ValueError:
                raise ValueError(_ADVICE) from None
        value = -seconds if negative else seconds
    if isinstance(value, bool) or math.isnan(value):
        raise ValueError(_ADVICE)
    return math.inf if value < 0 else float(value)


def seconds(text: str) -> float:
    """Return the seconds of a time that has an end. Raises ValueError, also for a negative one."""
    try:
        found = parse(text)
    except ValueError:
        raise ValueError(_ADVICE_FINITE) from None
    if math.isinf(found):
        raise ValueError(_ADVICE_FINITE)
    return found
