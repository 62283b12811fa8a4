"""The running rows of both tiers: interactive rows, batch rows in the same forward pass, and batch rows by themselves.

Rows move between the two batches with their caches, exactly where they were; nothing is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sidecar.engine.decoding import Row, Rows
from sidecar.engine.messages import Tier


class Batches:
    """``shared``: interactive rows and the batch rows that go along with them. ``aside``: the other batch rows."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.shared = Rows(model)
        self.aside = Rows(model)
        self._joinable = True

    def __iter__(self) -> Iterator[Row]:
        yield from self.shared.rows
        yield from self.aside.rows

    def __len__(self) -> int:
        return len(self.shared) + len(self.aside)

    def count(self, tier: Tier) -> int:
        """Running rows of a tier."""
        return sum(row.request.tier is tier for row in self)

    @property
    def along(self) -> int:
        """Batch rows in the shared batch."""
        return sum(row.request.tier is Tier.BATCH for row in self.shared.rows)

    @property
    def mixable(self) -> bool:
        """Whether batch rows can go along with interactive ones: joining once failed, or only one side has ropes."""
        return self._joinable and self.shared.joins(self.aside)

    def of(self, tier: Tier) -> Rows:
        """The batch that a tier's rows begin in and that is stepped for it."""
        return self.shared if tier is Tier.INTERACTIVE else self.aside

    def arranged(self, tier: Tier, along: int) -> Rows:
        """The batch to step for a tier, with just ``along`` batch rows in the shared one, the most urgent."""
        missing = along - self.along
        try:
            if missing < 0:
                present = sorted((r for r in self.shared.rows if r.request.tier is Tier.BATCH), key=_rank)
                self.aside.absorb(self.shared.split(present[missing:]))
            elif missing > 0:
                self.shared.absorb(self.aside.split(sorted(self.aside.rows, key=_rank)[:missing]))
        except Exception:
            self._joinable = False
            raise
        return self.of(tier)

    def reset(self, batch: Rows) -> list[Row]:
        """Put an empty batch in the place of one whose arrays can't be trusted any more; the rows it had."""
        if batch is self.shared:
            self.shared = Rows(self._model)
        else:
            self.aside = Rows(self._model)
        return batch.rows

    def clear(self) -> None:
        """Drop everything."""
        self.shared, self.aside = Rows(self._model), Rows(self._model)


def _rank(row: Row) -> tuple[int, float, int]:
    return (row.request.priority, row.request.arrived, row.request.id)
