"""Reading a text that is still being written, as if all of it were there.

What reads is a generator; where it needs more text than there is, it yields, and is resumed with the next piece.
"""

from __future__ import annotations

from collections.abc import Generator

from sidecar.text.detokenizer import Symbols

Wait = Generator[None, None, None]


class EndError(Exception):
    """The text is over."""


class NoMatchError(Exception):
    """What was read is not what had to come."""


class Pull:
    """The text not read yet, and steps of reading it. ``_taken``: what was read since it was emptied last."""

    def __init__(self, symbols: Symbols | None) -> None:
        self._plain = symbols.plain if symbols is not None else str
        self._buffer = ""
        self._taken = ""
        self._over = False

    def _more(self) -> Wait:
        if self._over:
            raise EndError
        yield

    def _take(self, count: int) -> str:
        text, self._buffer = self._buffer[:count], self._buffer[count:]
        self._taken += text
        return text

    # Space in and around markup is of no account.
    def _match(self, literal: str) -> int | None:
        """Return how much of the buffer is ``literal``: 0 when it isn't, None when that is still open."""
        i = j = 0
        while True:
            while j < len(literal) and literal[j].isspace():
                j += 1
            if j == len(literal):
                return i
            while i < len(self._buffer) and self._buffer[i].isspace():
                i += 1
            if i == len(self._buffer):
                return None
            if self._buffer[i] != literal[j]:
                return 0
            i += 1
            j += 1

    def _literal(self, literal: str) -> Wait:
        if not literal.strip():
            return
        while (fits := self._match(literal)) is None:
            yield from self._more()
        if not fits:
            raise NoMatchError
        self._take(fits)

    def _followed_by(self, literal: str) -> Generator[None, None, bool]:
        """Take a literal if it comes next; whether it did."""
        if not literal.strip():
            return False
        while (fits := self._match(literal)) is None:
            yield from self._more()
        self._take(fits)
        return fits > 0

    def _space(self) -> Wait:
        while not (rest := self._buffer.lstrip()):
            yield from self._more()
        self._take(len(self._buffer) - len(rest))

    def _until(self, marker: str) -> Generator[None, None, str]:
        """Read up to a marker, and the marker."""
        while (at := self._buffer.find(marker)) < 0:
            yield from self._more()
        text = self._take(at)
        self._take(len(marker))
        return self._plain(text)
