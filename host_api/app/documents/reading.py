"""Runs the readers in a child process with limits, and gives what they read as it comes.

The one seam between the service and files of strangers. The child is ``host_api.app.child``'s: limited in memory and
time, without network. A page of a PDF that takes it down costs that page and a new child, not the document.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from host_api.app import child
from host_api.app.documents import readers
from host_api.app.documents.content import Limits, Page, as_data, from_data
from host_api.app.errors import ApiError

LIMITS = Limits()
CHILD = child.Limits(memory_mb=1536, seconds=120.0, cpu_seconds=3600)
_TURNING = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they change the direction of writing
_LOST = 5  # pages of a file that may fail before the file does


def needs(package: str) -> None:
    """Raise a 501 that says what to install unless ``package`` is installed."""
    if (problem := readers.missing(package)) is not None:
        raise ApiError(problem.status_code, problem.message, code=problem.code)


def check(name: str, content: bytes) -> None:
    """Look whether a file can be read, without reading it through. Raises an ApiError. Blocking."""
    try:
        child.run(f"{__name__}:checked", name, content, limits=CHILD)
    except child.ChildFailure as exc:
        raise _error(name, exc) from exc


class Document:
    """A file being read: ``total`` pages; ``notes`` say what was left out, and are complete after the last page."""

    def __init__(self, name: str, content: bytes, skip: frozenset[int] = frozenset(), limits: Limits = LIMITS) -> None:
        self._name, self._content, self._limits = name, content, limits
        self._skip = set(skip)
        self.notes: list[str] = []
        self._source = self._begin()
        try:
            self.total = int(next(self._source)["total"])
        except child.ChildFailure as exc:
            raise _error(name, exc) from exc

    def _begin(self) -> Iterator[Any]:
        limits = dataclasses.asdict(self._limits)
        arguments = (self._name, self._content, sorted(self._skip), limits)
        return child.stream(f"{__name__}:streamed", *arguments, limits=CHILD)

    def pages(self) -> Iterator[Page]:
        """Yield the pages; close the iterator to end the child. Raises an ApiError. Blocking."""
        lost = 0
        try:
            while True:
                try:
                    for message in self._source:
                        if "notes" in message:
                            self.notes += message["notes"]
                            return
                        if "total" not in message:
                            page = from_data(message)
                            self._skip.add(page.number)
                            yield page
                    return
                except child.ChildRefusal as exc:
                    raise _error(self._name, exc) from exc
                except child.ChildFailure as exc:
                    # The page after the last that came is the one that failed; only PDFs are read page by page.
                    page_number = next(n for n in range(1, self.total + 2) if n not in self._skip)
                    lost += 1
                    if lost > _LOST or self.total < 2 or page_number > self.total or not _by_pages(self._content):
                        raise _error(self._name, exc) from exc
                    self.notes.append(f"page {page_number} can't be read: {exc}")
                    self._skip.add(page_number)
                    self._source = self._begin()
        finally:
            self.close()

    def close(self) -> None:
        """End the child."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


def text_of(name: str, content: bytes, most: int) -> str:
    """Return the words of a file, at least the first ``most`` characters. Raises an ApiError. Blocking."""
    document = Document(name, content)
    parts: list[str] = []
    size = 0
    for page in document.pages():
        parts.append(page.text)
        size += len(page.text)
        if size > most:
            break
    document.close()
    return "\n\n".join(filter(None, parts))


def _by_pages(content: bytes) -> bool:
    return b"%PDF-" in content[:1024]


def _error(name: str, exc: child.ChildFailure) -> ApiError:
    name = shown_name(name)
    if isinstance(exc, child.ChildRefusal):
        return ApiError(exc.status_code, f"{name}: {exc.message}", code=exc.code)
    if exc.reason in ("time", "memory"):
        message = f"{name} is too much to read: {exc}. Split it, or save it anew."
        return ApiError(422, message, code="document_too_large")
    return ApiError(422, f"{name} can't be read ({exc}); open it, save it anew and try again.", code="document_broken")


def shown_name(name: str) -> str:
    """Return a file's name for a sentence: one that is written from right to left doesn't turn the rest of it."""
    name = "".join(c for c in name if c.isprintable() and c not in _TURNING)
    return name if name.isascii() else f"\u2068{name}\u2069"


# --- in the child --------------------------------------------------------------------------------------
def checked(name: str, content: bytes) -> bool:
    """Raise a DocumentError for a file that can't be read, as far as a look at it tells."""
    readers.check(name, content)
    return True


def streamed(name: str, content: bytes, skip: list[int], limits: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the number of pages, each page, and at last the notes, as plain data."""
    reading = readers.read(name, content, Limits(**limits), frozenset(skip))
    yield {"total": reading.total}
    for page in reading.pages:
        yield as_data(page)
    yield {"notes": reading.notes}
