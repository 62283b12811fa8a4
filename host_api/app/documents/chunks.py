"""Parents and children of a page: children are found, parents are read."""

from __future__ import annotations

import re
from dataclasses import dataclass

PARENT = 2000  # characters
CHILD = 400
OVERLAP = 60


@dataclass(frozen=True)
class Parent:
    """A stretch of a page with its pictures' descriptions, and the children it is found by.

    ``pictures`` are the numbers, from 1, of the page's pictures described in it.
    """

    text: str
    pictures: tuple[int, ...]
    children: tuple[str, ...]


def build(text: str, descriptions: list[str]) -> list[Parent]:
    """The parents of a page; every description is in one, word for word."""
    parents = [Parent(part, (), tuple(split(part, CHILD, OVERLAP))) for part in split(text, PARENT, 0)]
    for number, description in enumerate(descriptions, 1):
        if description:
            note = f"[Picture {number}: {description}]"
            parents.append(Parent(note, (number,), tuple(split(note, CHILD, OVERLAP))))
    return parents


def split(text: str, size: int, overlap: int) -> list[str]:
    """Pieces of at most ``size`` characters, cut at sentence or word ends where there is one."""
    text = re.sub(r"[ \t]+", " ", text).strip()
    pieces = []
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        if end < len(text):
            window = text[start:end]
            cuts = [m.end() for m in re.finditer(r"[.!?]\s|\n", window) if m.end() > size // 2]
            space = window.rfind(" ")
            end = start + (cuts[-1] if cuts else space + 1 if space > size // 2 else size)
        if piece := text[start:end].strip():
            pieces.append(piece)
        start = end if end >= len(text) else max(end - overlap, start + 1)
    return pieces
