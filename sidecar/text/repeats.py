"""Notices an answer that only repeats itself.

Small models fall into loops: the same sentence until the limit, which is thousands of tokens away. What has an end of
its own (a table, a list, a song's refrain) repeats a stretch a few times; a loop does so for ever. A loop is
``REPEATS`` times the same stretch, and ``LENGTH`` tokens of it in a row: a line of 60 dashes, twelve like verses or a
matrix of zeros of 16 × 16 stay untouched.
"""

from __future__ import annotations

import struct

REPEATS = 10
LENGTH = 400
LONGEST = 256
_EVERY = 16


class RepeatWatch:
    """Looks at one answer's tokens as they come."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._count = 0
        self.period = 0
        """The length in tokens of the stretch that repeats; 0 as long as none does."""

    @property
    def looping(self) -> bool:
        """Whether the answer only repeats itself."""
        return self.period > 0

    def add(self, token: int) -> None:
        """Take a token."""
        self._ids += struct.pack("<I", token)
        self._count += 1
        if not self.period and self._count >= LENGTH and self._count % _EVERY == 0:
            self.period = self._find()

    def _find(self) -> int:
        """Return the period of the answer's end, 0 when it has none."""
        ids, size = self._ids, len(self._ids)
        last = ids[-4:]
        for period in range(1, LONGEST + 1):
            if ids[size - 4 * (period + 1) : size - 4 * period] != last:
                continue
            stretch = 4 * max(LENGTH, REPEATS * period)
            # Two slices of the same bytes, one a period later: a comparison in C that ends at the first difference.
            if stretch <= size and ids[size - stretch : size - 4 * period] == ids[size - stretch + 4 * period :]:
                return period
        return 0
