"""What a document is once it has been read: pages of blocks and pictures, as plain data.

Readers work on bytes that anybody may have made, so they run in a child process with limits. What is here becomes
plain data by ``as_data`` and back, and importing it costs nothing but the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff\ufeff\u200b\u00ad]")
_NO_ALT = re.compile(
    r"(picture|image|img|photo|graphic|chart|diagram|shape|bild|grafik|imagen?|immagine|图片|圖片|画像|図)?[\s_-]*\d*"
    r"|\S+\.(png|jpe?g|gif|bmp|tiff?|webp|svg|emf|wmf|heic)",
    re.IGNORECASE,
)
_SPACES = re.compile(r"[^\S\n]+")


class DocumentError(Exception):
    """A file that can't be read: an HTTP status, a message that says what to do, a stable ``code``."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status_code = status
        self.message = message
        self.code = code


def broken(message: str) -> DocumentError:
    """Return the error for a file of a known kind that can't be read."""
    return DocumentError(422, message, "document_broken")


def unsupported(message: str) -> DocumentError:
    """Return the error for a file of a kind that isn't read."""
    return DocumentError(415, message, "document_unsupported")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that is taken of one file. What is left out beyond them is told in ``Reading.notes``."""

    pages: int = 10_000
    cells: int = 1_000_000  # of all tables of a file
    characters: int = 20_000_000
    unpacked: int = 1_000_000_000  # bytes that a zip says it holds
    members: int = 20_000  # files in a zip
    pixels: int = 50_000_000  # of a picture before it is scaled
    side: int = 1024  # pixels of a picture's longer side
    page_side: int = 1600  # the same of a scanned page: its small print has to stay readable
    smallest: int = 32  # pixels; smaller pictures are rules and bullets
    pictures_a_page: int = 20
    pictures: int = 1000
    kept_bytes: int = 300_000_000  # of pictures held at once, where a file is read as a whole


class Kind(StrEnum):
    """What a block is."""

    HEADING = "heading"
    TEXT = "text"
    TABLE = "table"
    PICTURE = "picture"
    NOTE = "note"  # what stands beside the text: comments, footnotes, speaker's notes, headers, hidden things


@dataclass(frozen=True)
class Block:
    """A piece of a page in reading order.

    ``level`` is a heading's, from 1. ``rows`` are a table's, ``first_row`` the number its first one has in the file.
    ``picture`` is the position, from 1, of a picture in ``Page.pictures``; ``text`` then is what the file says of it.
    """

    kind: Kind
    text: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()
    first_row: int = 1
    picture: int = 0


@dataclass(frozen=True)
class Page:
    """A page, slide, sheet or chapter, from 1: blocks in reading order, and its pictures as PNG."""

    number: int
    blocks: tuple[Block, ...] = ()
    pictures: tuple[bytes, ...] = field(default=(), repr=False)
    label: str = ""  # what the file calls it: a sheet's name, a page label
    path: tuple[str, ...] = ()  # the headings that go on from earlier pages, outermost first

    @property
    def text(self) -> str:
        """All words of the page, a line for each paragraph and table row."""
        lines = (line for block in self.blocks for line in lines_of(block))
        return "\n".join(line for line in lines if line)


@dataclass(frozen=True)
class Reading:
    """A file being read: how many pages there are, the pages as they come, and what was left out, in words.

    ``notes`` is complete once ``pages`` has ended.
    """

    total: int
    pages: Iterable[Page] = ()
    notes: list[str] = field(default_factory=list)


def lines_of(block: Block) -> list[str]:
    """Return the lines of a block's text; under a heading row each row of a table names its columns."""
    if block.kind != Kind.TABLE:
        return [block.text]
    return [line for _, line in table_lines(block.rows, block.first_row)]


def table_lines(rows: tuple[tuple[str, ...], ...], first_row: int = 1) -> list[tuple[int, str]]:
    """Return a line for each row that isn't empty, with the row's number, so that a row is found by itself.

    >>> table_lines((("Item", "Kg"), ("Flour", "5"), ("Salt", "1")))
    [(1, 'Item, Kg'), (2, 'Item: Flour; Kg: 5'), (3, 'Item: Salt; Kg: 1')]
    """
    heads = headings(rows)
    found = []
    for number, row in enumerate(rows, first_row):
        values = [" ".join(v.split()) for v in row]
        if heads and number > first_row:
            pairs = [f"{heads[i]}: {v}" if i < len(heads) and heads[i] else v for i, v in enumerate(values) if v]
            line = "; ".join(pairs)
        else:
            line = ", ".join(v for v in values if v)
        if line:
            found.append((number, line))
    return found


def headings(rows: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Return the first row where it names the columns: words, all different, over at least two more rows."""
    heads = tuple(" ".join(h.split()) for h in rows[0]) if rows else ()
    numbers = any(re.fullmatch(r"[-+\d.,:/% ]*", head) for head in heads)  # the empty one too
    return heads if len(rows) > 2 and len(heads) > 1 and not numbers and len(set(heads)) == len(heads) else ()


def tidy(text: str) -> str:
    """Return ``text`` without control characters and with single spaces; line ends stay."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "\n".join(_SPACES.sub(" ", line).strip() for line in text.split("\n")).strip()


def alt_text(text: str) -> str:
    """Return what a file says of a picture; nothing for the names that programs give by themselves."""
    text = tidy(text).replace("\n", " ")
    return "" if _NO_ALT.fullmatch(text) else text


class PageBuilder:
    """Collects the blocks and pictures of a page in the order in which a reader meets them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.blocks: list[Block] = []
        self.pictures: list[bytes] = []
        self.left_out = 0  # pictures beyond the limit

    def heading(self, text: str, level: int) -> None:
        """Add a heading of a level from 1."""
        if text := tidy(text).replace("\n", " "):
            self.blocks.append(Block(Kind.HEADING, text, level=max(1, min(level, 9))))

    def text(self, text: str) -> None:
        """Add a paragraph."""
        if text := tidy(text):
            self.blocks.append(Block(Kind.TEXT, text))

    def note(self, what: str, text: str) -> None:
        """Add a note that says what it is, as in ``[comment: …]``."""
        if text := tidy(text).replace("\n", " "):
            self.blocks.append(Block(Kind.NOTE, f"[{what}: {text}]"))

    def table(self, rows: Iterable[Iterable[str]], first_row: int = 1) -> None:
        """Add a table; rows and columns that are wholly empty at its ends are left out."""
        kept = [tuple(tidy(cell) for cell in row) for row in rows]
        while kept and not any(kept[-1]):
            kept.pop()
        if kept:
            self.blocks.append(Block(Kind.TABLE, rows=tuple(kept), first_row=first_row))

    def picture(self, png: bytes, alt: str = "") -> None:
        """Add a picture with what the file says of it."""
        alt = alt_text(alt)
        if len(self.pictures) < self.limits.pictures_a_page:
            self.pictures.append(png)
            self.blocks.append(Block(Kind.PICTURE, alt, picture=len(self.pictures)))
            return
        self.left_out += 1
        self.note("picture", alt)

    def page(self, number: int, label: str = "") -> Page:
        """Return what was collected."""
        return Page(number, tuple(self.blocks), tuple(self.pictures), label)


def as_data(page: Page) -> dict[str, Any]:
    """Return a page as plain data, for the way from one process to another."""
    return {
        "number": page.number,
        "blocks": [[b.kind.value, b.text, b.level, b.rows, b.first_row, b.picture] for b in page.blocks],
        "pictures": list(page.pictures),
        "label": page.label,
        "path": list(page.path),
    }


def from_data(data: dict[str, Any]) -> Page:
    """Return the page that ``as_data`` made plain. Raises ValueError, KeyError or TypeError for anything else."""
    blocks = tuple(
        Block(Kind(kind), str(text), int(level), tuple(tuple(map(str, row)) for row in rows), int(first), int(picture))
        for kind, text, level, rows, first, picture in data["blocks"]
    )
    pictures = tuple(bytes(p) for p in data["pictures"])
    return Page(int(data["number"]), blocks, pictures, str(data["label"]), tuple(map(str, data["path"])))


def with_paths(pages: Iterable[Page]) -> Iterator[Page]:
    """Yield pages that know the headings which go on from the pages before them."""
    path: list[tuple[int, str]] = []
    for page in pages:
        yield page if page.path else replace(page, path=tuple(text for _, text in path))
        for block in page.blocks:
            if block.kind == Kind.HEADING:
                path = [*(p for p in path if p[0] < block.level), (block.level, block.text)]
