"""The text of a PDF's page in reading order: lines, columns, paragraphs, headings, tables.

A PDF says where each character stands and nothing of what belongs together. Theory of operation:

1. Characters become *segments*: stretches of a line without a gap. pdfium gives the characters in the order in which
   the file draws them, with generated line ends; a gap wider than two characters ends a segment too, since a file may
   draw across columns.
2. Segments are ordered. A *gutter* is a height along which hardly any segment crosses, with prose on both sides; what
   crosses it (a title over two columns) parts the page into bands, and in each band the left side is read before the
   right. Short pieces side by side (a table, an address list) are no prose, and are read row by row.
3. Rows become blocks: three rows or more with the same columns are a table, rows close together a paragraph, large
   or outlined lines headings. A word parted at a line's end is joined, and Chinese and Japanese lines are, too.

Worked example, two columns under a title: 61 segments, of which the title crosses x = 300; it is the first band, then
30 lines at the left, then 30 at the right. A price list of 20 × 3 cells has gutters as well, but its cells have 6
characters on average: it is read as 20 rows, and becomes a table.

All coordinates are in points from the top left of the page as shown, so after its /Rotate.
"""

from __future__ import annotations

import re
import statistics
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from host_api.app.documents.content import Kind
from host_api.app.documents.readers.pdf_geometry import Box, Geometry

_LIGATURES = {c: unicodedata.normalize("NFKC", chr(c)) for c in range(0xFB00, 0xFB07)}
_HYPHENS = "\x02\ufffe\xad"
_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef]")
_PROSE = 14  # characters a segment has on average in a column of text
_MOST = 200_000  # characters of a page


@dataclass(frozen=True)
class Segment:
    """A stretch of text in a line, or the place of a figure (by its position in a list)."""

    text: str
    box: Box
    size: float = 0.0  # of the font, in points
    figure: int | None = None


@dataclass(frozen=True)
class Piece:
    """A block of the page as it was laid out."""

    kind: Kind
    text: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()
    figure: int | None = None


def segments(textpage: Any, geometry: Geometry) -> list[Segment]:
    """Return the page's text as segments, in the order of the file."""
    from ctypes import c_double

    from pypdfium2 import raw

    found: list[Segment] = []
    characters: list[str] = []
    box: list[float] = []
    size = 0.0
    line: float | None = None
    left, right, bottom, top = c_double(), c_double(), c_double(), c_double()

    def end() -> None:
        nonlocal size
        text = "".join(characters).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if text.strip() and box:
            place = geometry.box(box[0], box[1], box[2], box[3])
            found.append(Segment(text.strip(" ").translate(_LIGATURES), place, size))
        characters.clear()
        box.clear()
        size = 0.0

    for i in range(min(raw.FPDFText_CountChars(textpage), _MOST)):
        code = raw.FPDFText_GetUnicode(textpage, i)
        if code in (10, 13):
            end()
            continue
        character = chr(code) if 0 < code < 0x110000 else ""
        if not raw.FPDFText_GetCharBox(textpage, i, left, right, bottom, top):
            continue
        if not character.strip() or raw.FPDFText_IsGenerated(textpage, i) == 1:
            characters.append(character if character.strip() else " ")
            continue
        em = raw.FPDFText_GetFontSize(textpage, i) if not characters else size
        high = max(top.value - bottom.value, 1.0)
        reach = 2.0 * max(em if 1 < em < 200 else high, high)
        # pdfium leaves out the line end after a parted word, and between the cells of a narrow column.
        base = _baseline(textpage, i)
        below = base is not None and line is not None and abs(base - line) > 0.6 * max(size, high)
        if below and characters and _WIDE.match(character) and _WIDE.match(characters[-1]):
            below = right.value < box[0] or left.value > box[2]  # else it is written downwards
        parted = below or (bool(characters) and characters[-1] in _HYPHENS)
        if box and (parted or _apart(box, (left.value, bottom.value, right.value, top.value), reach, geometry.turn)):
            end()
        size = size or max(em, 0.0)
        line = base
        characters.append(character)
        new = (left.value, bottom.value, right.value, top.value)
        box[:] = [min(box[0], new[0]), min(box[1], new[1]), max(box[2], new[2]), max(box[3], new[3])] if box else new
    end()
    return found


def _baseline(textpage: Any, i: int) -> float | None:
    """Return the height on which an upright character stands; None for one that is turned."""
    from ctypes import c_double

    from pypdfium2 import raw

    x, y = c_double(), c_double()
    if raw.FPDFText_GetCharAngle(textpage, i) > 0.05 or not raw.FPDFText_GetCharOrigin(textpage, i, x, y):
        return None
    return y.value


def _apart(box: Sequence[float], new: Sequence[float], reach: float, turn: int) -> bool:
    """Tell whether a character stands so far along the line that it begins something else."""
    ahead = 1 if turn in (90, 270) and (box[3] - box[1]) > (box[2] - box[0]) else 0
    return new[ahead] - box[ahead + 2] > reach or box[ahead] - new[ahead + 2] > reach


def blocks(given: list[Segment], geometry: Geometry, titles: Sequence[str] = ()) -> Iterator[Piece]:
    """Yield the page's blocks in reading order; ``titles`` are the outline's, which are headings wherever they are."""
    if not given:
        return
    upright = [s for s in given if s.figure is None and s.text]
    tall = sum(_height(s) > 3 * _width(s) and len(s.text) > 2 for s in upright)
    ordered = given if tall > len(upright) / 2 else _ordered(given, 0)
    sizes = [s.size for s in upright for _ in range(max(1, len(s.text) // 10)) if s.size > 0]
    usual = statistics.median(sizes) if sizes else 0.0
    yield from _grouped(_rows(ordered), usual, {" ".join(t.split()) for t in titles})


def _width(s: Segment) -> float:
    return s.box[2] - s.box[0]


def _height(s: Segment) -> float:
    return s.box[3] - s.box[1]


def _length(s: Segment) -> int:
    return 40 if s.figure is not None else len(s.text) + len(_WIDE.findall(s.text))


def _ordered(given: list[Segment], depth: int) -> list[Segment]:
    """Return segments in reading order: column by column where there are columns, else row by row."""
    gutter = _gutter(given) if len(given) > 5 and depth < 6 else None
    if gutter is None:
        return _by_rows(given)
    crossing = sorted((s for s in given if s.box[0] < gutter < s.box[2]), key=lambda s: s.box[1])
    result: list[Segment] = []
    rest = [s for s in given if not s.box[0] < gutter < s.box[2]]
    for bar in [*crossing, None]:
        band = [s for s in rest if bar is None or (s.box[1] + s.box[3]) / 2 < (bar.box[1] + bar.box[3]) / 2]
        rest = [s for s in rest if s not in band] if bar is not None else []
        for side in ([s for s in band if s.box[2] <= gutter], [s for s in band if s.box[0] >= gutter]):
            result += _ordered(side, depth + 1)
        if bar is not None:
            result.append(bar)
    return result


def _gutter(given: list[Segment]) -> float | None:
    """Return the middle of the best gap between columns of prose, or None."""
    best: tuple[float, float] | None = None
    for x in sorted({round(s.box[0], 1) for s in given}):
        left = [s for s in given if s.box[2] <= x]
        right = [s for s in given if s.box[0] >= x - 0.5]
        crossing = len(given) - len(left) - len(right)
        if min(len(left), len(right)) < 3 or crossing > 0.2 * len(given):
            continue
        if min(sum(map(_length, side)) / len(side) for side in (left, right)) < _PROSE:
            continue
        edge = max(s.box[2] for s in left)
        if x - edge < 4 or not _beside(left, right):
            continue
        score = min(len(left), len(right)) - 2 * crossing
        if best is None or score > best[0]:
            best = (score, (edge + x) / 2)
    return best[1] if best else None


def _beside(left: list[Segment], right: list[Segment]) -> bool:
    """Tell whether two groups share a good part of their heights."""
    low = max(min(s.box[1] for s in left), min(s.box[1] for s in right))
    high = min(max(s.box[3] for s in left), max(s.box[3] for s in right))
    least = min(max(s.box[3] for s in side) - min(s.box[1] for s in side) for side in (left, right))
    return high - low > 0.4 * least


def _by_rows(given: list[Segment]) -> list[Segment]:
    rows: list[list[Segment]] = []
    for s in sorted(given, key=lambda s: s.box[1]):
        middle = (s.box[1] + s.box[3]) / 2
        row = rows[-1] if rows else None
        if row and s.figure is None and row[0].figure is None and middle < min(r.box[3] for r in row):
            row.append(s)
        else:
            rows.append([s])
    return [s for row in rows for s in sorted(row, key=lambda s: s.box[0])]


def _rows(ordered: list[Segment]) -> list[list[Segment]]:
    """Return segments that follow each other at one height as rows."""
    rows: list[list[Segment]] = []
    for s in ordered:
        last = rows[-1][-1] if rows else None
        level = last is not None and last.figure is None and s.figure is None
        if level and last is not None and s.box[0] >= last.box[2] - 1 and _level(last, s):
            rows[-1].append(s)
        else:
            rows.append([s])
    return rows


def _level(a: Segment, b: Segment) -> bool:
    return min(a.box[3], b.box[3]) - max(a.box[1], b.box[1]) > 0.5 * min(_height(a), _height(b))


def _grouped(rows: list[list[Segment]], usual: float, titles: set[str]) -> Iterator[Piece]:
    lines: list[str] = []
    before: list[Segment] | None = None
    i = 0

    def paragraph() -> Iterator[Piece]:
        if lines:
            yield Piece(Kind.TEXT, joined(lines))
            lines.clear()

    while i < len(rows):
        row = rows[i]
        text = "  ".join(s.text for s in row)
        table = _table(rows[i:])
        if row[0].figure is not None:
            yield from paragraph()
            yield Piece(Kind.PICTURE, figure=row[0].figure)
        elif table:
            yield from paragraph()
            yield Piece(Kind.TABLE, rows=tuple(table))
            i += len(table) - 1
        elif (level := _heading(row, text, usual, titles)) > 0:
            yield from paragraph()
            yield Piece(Kind.HEADING, " ".join(text.split()), level)
        else:
            if before is not None and not _follows(before, row):
                yield from paragraph()
            lines.append(text)
        before = row
        i += 1
    yield from paragraph()


def _heading(row: list[Segment], text: str, usual: float, titles: set[str]) -> int:
    if " ".join(text.split()) in titles:
        return 1
    size = max(s.size for s in row)
    if not usual or size < 1.2 * usual or len(text) > 150 or not re.search(r"[^\W\d_]{2}|[\u2e80-\u9fff]", text):
        return 0
    return 1 if size > 1.7 * usual else 2 if size > 1.4 * usual else 3


def _follows(before: list[Segment], row: list[Segment]) -> bool:
    gap = row[0].box[1] - before[0].box[3]
    return -2 * _height(before[0]) < gap < 0.9 * max(_height(before[0]), _height(row[0]))


def _table(rows: list[list[Segment]]) -> list[tuple[str, ...]]:
    """Return the rows at the beginning that stand in the same two columns or more; none if they aren't three."""
    first = rows[0]
    found: list[tuple[str, ...]] = []
    for row in rows if len(first) > 1 else ():
        fits = len(row) == len(first) and all(
            min(a.box[2], b.box[2]) > max(a.box[0], b.box[0]) - 2 for a, b in zip(first, row, strict=True)
        )
        if not fits:
            break
        found.append(tuple(s.text for s in row))
    return found if len(found) > 2 else []


def joined(lines: Sequence[str]) -> str:
    """Return a paragraph's lines as one text: parted words are joined, as Chinese and Japanese lines are."""
    text = ""
    for line in lines:
        line = line.strip()
        if not text:
            text = line
        elif text[-1] in _HYPHENS or re.search(r"[^\W\d_]-$", text):
            text = text[:-1] + ("" if line[:1].islower() else "-") + line
        elif _WIDE.match(text[-1]) and _WIDE.match(line[:1]):
            text += line
        else:
            text += "\n" + line
    return re.sub(f"[{_HYPHENS}]", "-", text)
