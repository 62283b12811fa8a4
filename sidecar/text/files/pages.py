"""What a file is once it was read: plain data that passes between two processes."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = "PDF, Word (.docx), PowerPoint (.pptx), Excel (.xlsx), text and images"
"""What is read, in words."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How much of a file is wanted. ``pictures``: of pages, at most; ``side``: pixels of their longer side."""

    characters: int = 400_000
    pictures: int = 0
    side: int = 1024
    pages: int = 2000


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page, slide or sheet, from 1. ``name``: what it is called in words, such as "page 3" or "sheet Costs"."""

    number: int
    name: str
    text: str
    picture: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class FileRead:
    """A file's pages. ``total``: how many it has, also those left out; ``notes``: what was left out, in words."""

    pages: tuple[Page, ...]
    total: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Why a file can't be read, for people."""

    message: str


class ReadError(Exception):
    """A file that can't be read; the message says what to do."""
