"""What a file is once it was read: plain data that passes between two processes."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = "PDF, Word (.docx), PowerPoint (.pptx), Excel (.xlsx), text and images"
"""What is read, in words."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How much of a file is wanted. ``pictures``: of pages, at most; ``side``: pixels of their longer side.

    ``frames``: of a video, at most, at ``fps`` of them for a second; 0 where no video is expected.
    ``sound``: its samples are, and nothing else.
    """

    characters: int = 400_000
    pictures: int = 0
    side: int = 1024
    pages: int = 2000
    frames: int = 0
    fps: float = 2.0
    sound: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page, slide or sheet, from 1. ``name``: what it is called in words, such as "page 3" or "sheet Costs"."""

    number: int
    name: str
    text: str
    picture: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class FileRead:
    """A file's pages. ``total``: how many it has, also those left out; ``notes``: what was left out, in words.

    ``seconds``: how long a video or a sound is; a video's pages are frames. ``samples``: of a sound, float32, at
    ``rate`` of them a second.
    """

    pages: tuple[Page, ...]
    total: int
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    samples: bytes = b""
    rate: int = 0


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Why a file can't be read, for people."""

    message: str


class ReadError(Exception):
    """A file that can't be read; the message says what to do."""


def is_video(kind: str, data: bytes) -> bool:
    """Return whether a file is a video, by its first bytes or, where they say nothing, by its media type."""
    head = data[:16]
    if head[4:8] == b"ftyp":
        return head[8:12] not in _STILL
    signs = (b"\x1aE\xdf\xa3", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
    return head.startswith(signs) or (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or kind.startswith("video/")


_STILL = (b"heic", b"heix", b"mif1", b"avif", b"avis", b"M4A ", b"M4B ")  # files of this container that are no video
