"""Parents and children of a page: children are found, parents are read.

A parent is a stretch of the page in reading order with the pictures that stand in it, under one heading. A child is a
small piece of it and knows its place: the rows of a table, or the picture. Rows are never torn, and neither is a
picture's description.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from host_api.app.documents.content import Block, Kind, Page, table_lines

PARENT = 2000  # characters; Chinese, Japanese and Korean ones count twice, as they do in a model's tokens
CHILD = 400
OVERLAP = 60
_WIDE = re.compile(r"[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_ENDS = re.compile(r"[.!?]\s|[。！？；]|\n")


@dataclass(frozen=True)
class Child:
    """A piece that search finds. ``rows`` are its first and last row in the file; ``picture`` its number, or 0."""

    text: str
    rows: tuple[int, int] | None = None
    picture: int = 0


@dataclass(frozen=True)
class Parent:
    """A stretch of a page: its text, the headings it stands under, its pictures by number, and its children."""

    text: str
    headings: tuple[str, ...] = ()
    pictures: tuple[int, ...] = ()
    children: tuple[Child, ...] = ()


@dataclass(frozen=True)
class _Line:
    """What is kept whole if it can be: a paragraph, a table's row, a picture's note."""

    text: str
    row: int = 0
    picture: int = 0
    heading: bool = False


def weight(text: str) -> int:
    """Return a text's length as a model would count it, wide characters twice."""
    return len(text) + len(_WIDE.findall(text))


def build(page: Page, descriptions: Sequence[str] = ()) -> list[Parent]:
    """Return the parents of a page; every description is in one, word for word, where its picture stands."""
    parents: list[Parent] = []
    path: list[tuple[int, str]] = list(enumerate(page.path, -len(page.path)))  # above the page's own levels
    lines: list[_Line] = []
    size = 0

    def end() -> None:
        nonlocal size
        if lines:
            parents.append(_parent(lines, tuple(text for _, text in path)))
        lines.clear()
        size = 0

    for block in page.blocks:
        if block.kind == Kind.HEADING:
            if any(not line.heading for line in lines):
                end()
            if not any(text == block.text for _, text in path):
                path = [*(p for p in path if p[0] < block.level), (block.level, block.text)]
        for line in _lines(block, descriptions):
            if size and size + weight(line.text) > PARENT:
                end()
            lines.append(line)
            size += weight(line.text)
    end()
    return parents


def _lines(block: Block, descriptions: Sequence[str]) -> Iterator[_Line]:
    if block.kind == Kind.TABLE:
        yield from (_Line(text, row=number) for number, text in table_lines(block.rows, block.first_row))
    elif block.kind == Kind.PICTURE:
        said = descriptions[block.picture - 1] if block.picture <= len(descriptions) else ""
        words = ". ".join(filter(None, (block.text, said)))
        if words:
            yield _Line(f"[Picture {block.picture}: {words}]", picture=block.picture)
    else:
        yield from (_Line(part, heading=block.kind == Kind.HEADING) for part in split(block.text, PARENT, 0))


def _parent(lines: list[_Line], headings: tuple[str, ...]) -> Parent:
    pictures = tuple(line.picture for line in lines if line.picture)
    return Parent("\n".join(line.text for line in lines), headings, pictures, tuple(_children(lines)))


def _children(lines: list[_Line]) -> Iterator[Child]:
    """Yield the children: prose together and cut at sentences, rows together and never cut, each picture alone."""
    prose: list[str] = []
    rows: list[_Line] = []

    def flush() -> Iterator[Child]:
        if prose:
            yield from (Child(part) for part in split("\n".join(prose), CHILD, OVERLAP))
            prose.clear()
        if rows:
            yield Child("\n".join(r.text for r in rows), rows=(rows[0].row, rows[-1].row))
            rows.clear()

    for line in lines:
        if line.picture:
            yield from flush()
            yield from (Child(part, picture=line.picture) for part in split(line.text, CHILD, OVERLAP))
        elif line.row:
            if prose or sum(weight(r.text) + 1 for r in rows) + weight(line.text) > CHILD:
                yield from flush()
            rows.append(line)
        else:
            if rows:
                yield from flush()
            prose.append(line.text)
    yield from flush()


def split(text: str, size: int, overlap: int) -> list[str]:
    """Return pieces of at most ``size`` characters (wide ones count twice), cut at sentence or word ends."""
    text = re.sub(r"[ \t]+", " ", text).strip()
    pieces = []
    start = 0
    while start < len(text):
        end = _reach(text, start, size)
        if end < len(text):
            window = text[start:end]
            half = len(window) // 2
            cuts = [m.end() for m in _ENDS.finditer(window) if m.end() > half]
            space = window.rfind(" ")
            end = start + (cuts[-1] if cuts else space + 1 if space > half else len(window))
        if piece := text[start:end].strip():
            pieces.append(piece)
        start = end if end >= len(text) else max(end - overlap, start + 1)
    return pieces


def _reach(text: str, start: int, size: int) -> int:
    """Return the end of the longest piece from ``start`` that weighs at most ``size``."""
    end = min(start + size, len(text))
    while (over := weight(text[start:end]) - size) > 0 and end > start + 1:
        end -= max(1, over // 2)
    return end
