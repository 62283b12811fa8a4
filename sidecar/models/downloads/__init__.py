"""Fetching models from a hub: what is fetched, what it tells on the way, how it fails.

The pieces: ``hub`` asks what a model consists of (through huggingface_hub), ``selection`` picks the files, ``store``
knows the hub's cache folder, ``transfer`` fetches one file, ``pull`` one model, ``manager`` shares pulls inside a
server. huggingface_hub is imported at the first pull, not before.

Its own file downloader is not used: it throws away what it has when its process dies, doesn't compare hashes, and
with Xet it takes the bytes from elsewhere in an order that can't be resumed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


class PullError(Exception):
    """A pull that can't go on; the message says why and what to do.

    ``code`` is one word for programs: not_found, gated, unauthorized, unreachable, busy, damaged, disk_full, unusable,
    offline. ``status`` is the HTTP status a server answers with.
    """

    def __init__(self, message: str, *, code: str, status: int = 502) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a model at the hub. ``sha256`` where it is kept by LFS, else ``git_sha1`` of its git blob."""

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def etag(self) -> str:
        """The name of its blob in the cache."""
        return self.sha256 or self.git_sha1 or ""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the hub says a model consists of, at one commit."""

    hub_id: str
    commit: str
    files: tuple[HubFile, ...]
    gated: bool = False

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(f.size for f in self.files)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a pull is: bytes, bytes a second, seconds left (None while unknown).

    ``status``: listing, waiting, downloading, checking, retrying, success, failed, cancelled.
    """

    model: str
    status: str = "listing"
    file: str | None = None
    file_completed: int = 0
    file_total: int = 0
    completed: int = 0
    total: int = 0
    rate: float = 0.0
    seconds_left: float | None = None
    message: str | None = None

    def document(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "model": self.model,
            "status": self.status,
            "file": self.file,
            "file_completed": self.file_completed,
            "file_total": self.file_total,
            "completed": self.completed,
            "total": self.total,
            "rate": round(self.rate),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
            "message": self.message,
        }


Report = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard a pull tries. Times in seconds; ``attempts`` without progress, at each endpoint."""

    stall: float = 30.0
    attempts: int = 5
    backoff: float = 1.0
    longest_wait: float = 60.0

    def wait(self, attempt: int, asked: float | None = None) -> float:
        """Seconds before attempt ``attempt`` + 1: what the hub ``asked`` for, else doubling from ``backoff``."""
        wanted = self.backoff * 2 ** max(0, attempt - 1) if asked is None else asked
        return float(min(self.longest_wait, wanted))


def human(size: float) -> str:
    """Bytes for people: "2.9 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
