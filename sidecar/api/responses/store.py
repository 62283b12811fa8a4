"""Responses kept for ``previous_response_id`` and for asking again: in memory, bounded, and in a folder if named.

What is kept is what people typed: files are readable by the user alone (0600, in a folder of 0700), and the oldest go
first. A file that can't be read is as if it were not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MAX_KEPT = 1000
MAX_BYTES = 64 << 20  # of JSON, in memory
_ID = re.compile(r"resp_[0-9a-f]{32}")


@dataclass
class Stored:
    """A response and the input it answered; ``previous`` continues the chain backwards."""

    document: dict[str, Any]
    input: list[dict[str, Any]]
    previous: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The response's id."""
        return str(self.document["id"])

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.document["status"] not in ("queued", "in_progress")


class ResponseStore:
    """Responses by id, and the tasks of those in the background. On the event loop's thread."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: OrderedDict[str, tuple[Stored, int]] = OrderedDict()
        self._bytes = 0
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.changed = asyncio.Condition()

    def put(self, stored: Stored) -> None:
        """Keep a response, or what it has become."""
        self._drop(stored.id)
        text = json.dumps(asdict(stored))
        self._kept[stored.id] = (stored, len(text))
        self._bytes += len(text)
        while self._kept and (len(self._kept) > MAX_KEPT or self._bytes > MAX_BYTES):
            self._drop(next(iter(self._kept)))
        if self._folder is not None:
            self._write(stored.id, text)

    def get(self, response_id: str) -> Stored | None:
        """Return a kept response, or None."""
        found = self._kept.get(response_id)
        if found is not None:
            self._kept.move_to_end(response_id)
            return found[0]
        return self._read(response_id)

    def delete(self, response_id: str) -> bool:
        """Forget a response; return whether there was one."""
        there = self.get(response_id) is not None
        self._drop(response_id)
        if self._folder is not None and _ID.fullmatch(response_id):
            with contextlib.suppress(OSError):
                (self._folder / f"{response_id}.json").unlink(missing_ok=True)
        return there

    def history(self, response_id: str) -> list[dict[str, Any]] | None:
        """Return the items of a response and of all it follows, oldest first; None when one is not kept."""
        chain: list[Stored] = []
        following: str | None = response_id
        while following is not None:
            stored = self.get(following)
            if stored is None or len(chain) > MAX_KEPT:
                return None
            chain.append(stored)
            following = stored.previous
        return [item for stored in reversed(chain) for item in (*stored.input, *stored.document["output"])]

    def item(self, item_id: str) -> dict[str, Any] | None:
        """Return an item of a response in memory by its id."""
        for stored, _ in reversed(self._kept.values()):
            for item in (*stored.input, *stored.document["output"]):
                if item.get("id") == item_id:
                    return dict(item)
        return None

    def _drop(self, response_id: str) -> None:
        found = self._kept.pop(response_id, None)
        if found is not None:
            self._bytes -= found[1]

    def _write(self, response_id: str, text: str) -> None:
        assert self._folder is not None
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            spare = self._folder / f".{response_id}.new"
            descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            spare.replace(self._folder / f"{response_id}.json")
            for old in list(self._oldest())[:-MAX_KEPT]:
                old.unlink(missing_ok=True)

    def _oldest(self) -> Iterator[Path]:
        assert self._folder is not None
        yield from sorted(self._folder.glob("resp_*.json"), key=lambda p: p.stat().st_mtime)

    def _read(self, response_id: str) -> Stored | None:
        if self._folder is None or not _ID.fullmatch(response_id):
            return None
        try:
            document = json.loads((self._folder / f"{response_id}.json").read_text("utf-8"))
            return Stored(**document)
        except (OSError, ValueError, TypeError):
            return None
