"""Excel's number formats: a cell's value as the sheet shows it."""

from __future__ import annotations

import datetime
import re

BUILT_IN = {
    1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00", 12: "# ?/?", 13: "# ??/??",
    14: "yyyy-mm-dd", 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy", 18: "h:mm AM/PM", 19: "h:mm:ss AM/PM", 20: "h:mm",
    21: "h:mm:ss", 22: "yyyy-mm-dd h:mm", 37: "#,##0", 38: "#,##0", 39: "#,##0.00", 40: "#,##0.00", 45: "mm:ss",
    46: "[h]:mm:ss", 47: "mm:ss.0", 48: "##0.0E+0", 49: "@",
}  # fmt: skip
_LITERAL = re.compile(r'"([^"]*)"|\\(.)|_.|\*.')
_BRACKET = re.compile(r"\[(?!h+\]|m+\]|s+\])([^\]]*)\]", re.IGNORECASE)
_DATE = re.compile(r"[ymdhs]", re.IGNORECASE)
_PART = re.compile(r"\[h+\]|\[m+\]|\[s+\]|y+|m+|d+|h+|s+(?:\.0+)?|AM/PM|A/P", re.IGNORECASE)
_MONTH_NAMES = "January February March April May June July August September October November December"
_MONTHS = tuple(_MONTH_NAMES.split())
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def shown(value: float, code: str, *, since_1904: bool = False) -> str:
    """Return a number as the format ``code`` shows it; dates with the year first where the format leaves it to the
    system, which is Excel's format 14.

    >>> shown(0.25, "0%"), shown(45352, "dd.mm.yyyy"), shown(1234.5, '#,##0.00 "€"')
    ('25%', '01.03.2024', '1,234.50 €')
    """
    sections = _sections(code)
    section = (
        sections[1]
        if value < 0 and len(sections) > 1
        else sections[2]
        if value == 0 and len(sections) > 2
        else sections[0]
    )
    signed = value < 0 and len(sections) > 1
    currency = "".join(m.split("-")[0].lstrip("$") for m in _BRACKET.findall(section) if m.startswith("$"))
    bare = _LITERAL.sub("", _BRACKET.sub("", section))
    if bare.strip().lower() in ("general", "@", "") and not currency:
        return plain(value) if section.strip() else ""
    if _DATE.search(bare) and not re.search(r"[0#?](?!\d*$)", re.sub(r"s\.0+", "s", bare)):
        return _date(value, _BRACKET.sub("", section), since_1904)
    return _number(-value if signed else value, section, bare, currency)


def plain(value: float) -> str:
    """Return a number without a format: whole ones without a point, others to 12 digits."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.12g}"


def _sections(code: str) -> list[str]:
    found, quoted, last = [], False, 0
    for i, c in enumerate(code):
        quoted ^= c == '"'
        if c == ";" and not quoted and (i == 0 or code[i - 1] != "\\"):
            found.append(code[last:i])
            last = i + 1
    return [*found, code[last:]]


def _number(value: float, section: str, bare: str, currency: str) -> str:
    digits = re.search(r"[0#?][0#?,]*(?:\.[0#?,]*)?", bare)
    if digits is None:
        return " ".join(m[1] or m[2] or "" for m in _LITERAL.finditer(section)).strip() or plain(value)
    if "/" in bare or re.search(r"E[+-]", bare):
        return f"{value:.2e}" if "E" in bare else plain(value)
    pattern = digits[0]
    places = len(pattern.partition(".")[2].rstrip(","))
    value *= 100 if "%" in bare else 1
    value /= 1000 ** (len(pattern) - len(pattern.rstrip(",")))
    words = f"{value:,.{places}f}" if "," in pattern.rstrip(",") else f"{value:.{places}f}"
    whole, _, rest = words.partition(".")
    optional = places - len(pattern.partition(".")[2].rstrip(",").rstrip("#"))
    for _ in range(optional):
        rest = rest.removesuffix("0")
    words = f"{whole}.{rest}" if rest else whole
    width = sum(c == "0" for c in pattern.partition(".")[0])
    words = words.zfill(width + words.startswith("-")) if "," not in words and len(whole.lstrip("-")) < width else words
    around = _LITERAL.sub(lambda m: m[1] or m[2] or "", _BRACKET.sub("", section))
    before, after = around.split(pattern, 1) if pattern in around else ("", "")
    sign, words = ("-", words[1:]) if words.startswith("-") else ("", words)
    text = f"{sign}{before.strip()}{' ' if before.strip().isalpha() else ''}{words}"
    text = (
        f"{currency}{text}" if currency and section.find("[$") < section.find(pattern) else f"{text} {currency}".strip()
    )
    tail = after.strip()
    return f"{text}{'' if tail[:1] in '%)' else ' '}{tail}" if tail else text


def _date(value: float, section: str, since_1904: bool) -> str:
    start = datetime.datetime(1904, 1, 1) if since_1904 else datetime.datetime(1899, 12, 30)
    days = value if since_1904 or value >= 60 else value + 1  # Excel counts a 29 February 1900
    try:
        when = start + datetime.timedelta(seconds=round(days * 86400, 3))
    except OverflowError:
        return plain(value)
    half = bool(re.search("am/pm|a/p", section, re.IGNORECASE))
    parts: list[str] = []
    place = 0
    hours = False
    text = section
    for found in re.finditer(rf"{_LITERAL.pattern}|{_PART.pattern}", text, re.IGNORECASE):
        parts.append(text[place : found.start()])
        place = found.end()
        if found[0][0] in '"\\_*':
            parts.append(found[1] or found[2] or "")
            continue
        token = found[0].lower()
        minutes = token[0] == "m" and (hours or re.match(r"[:.]?s", text[place:], re.IGNORECASE) is not None)
        parts.append(_piece(token, when, value, half=half, minutes=minutes))
        hours = token.startswith(("h", "[h")) or (hours and token[0] == "m" and minutes)
    return "".join((*parts, text[place:])).strip()


def _piece(token: str, when: datetime.datetime, value: float, *, half: bool, minutes: bool) -> str:
    size = len(token)
    if token.startswith("["):
        unit = {"h": 3600, "m": 60, "s": 1}[token[1]]
        return str(int(round(value * 86400) // unit))
    if token in ("am/pm", "a/p"):
        return "AM" if when.hour < 12 else "PM"
    if token[0] == "y":
        return f"{when.year:04d}" if size > 2 else f"{when.year % 100:02d}"
    if token[0] == "d":
        return _DAYS[when.weekday()][: 3 if size == 3 else None] if size > 2 else f"{when.day:0{size}d}"
    if token[0] == "h":
        return f"{(when.hour % 12 or 12) if half else when.hour:0{min(size, 2)}d}"
    if token[0] == "s":
        return f"{when.second:0{min(len(token.split('.')[0]), 2)}d}"
    if minutes:
        return f"{when.minute:0{min(size, 2)}d}"
    name = _MONTHS[when.month - 1]
    return name[:3] if size == 3 else name if size > 3 else f"{when.month:0{size}d}"
