"""Stop strings, found across the borders of tokens."""

from __future__ import annotations

from collections.abc import Sequence


def held_back(text: str, markers: Sequence[str]) -> int:
    """Return the length of the longest end of ``text`` that begins one of ``markers`` and isn't all of it."""
    longest = 0
    for marker in markers:
        for n in range(min(len(marker) - 1, len(text)), longest, -1):
            if marker.startswith(text[-n:]):
                longest = n
                break
    return longest


class StopMatcher:
    """Lets text through up to the first stop string, which is never shown, not even in part.

    ``fed`` and ``shown`` count the characters taken and let through; ``hit`` is the stop string once it came.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.fed = 0
        self.shown = 0
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """Return what may be shown now; of several stop strings the one that is whole first ends the text."""
        if self.hit is not None:
            return ""
        self.fed += len(text)
        text = self._held + text
        found = [(text.find(s), s) for s in self._stops if s in text]
        if found:
            at, self.hit = min(found, key=lambda f: (f[0] + len(f[1]), f[0]))
            self._held = ""
        else:
            at = len(text) - held_back(text, self._stops)
            self._held = text[at:]
        self.shown += at
        return text[:at]

    def skip(self, text: str) -> str:
        """Let text through unlooked at; not once ``feed`` holds any back."""
        self.fed += len(text)
        self.shown += len(text)
        return text

    def finish(self) -> str:
        """Return what was held back and turned out to be text."""
        held, self._held = self._held, ""
        self.shown += len(held)
        return held
