"""The running rows of both tiers: interactive rows, batch rows in the same forward pass, and batch rows by themselves.

Rows move between the two batches with their caches, exactly where they were; nothing is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from sidecar.backend.families import Capabilities
from sidecar.engine.choosing import Row
from sidecar.engine.decoding import DecodeBatch, Joins, Standing
from sidecar.engine.messages import Tier


class TierBatches:
    """``shared``: interactive rows and the batch rows in their pass. ``separate``: the other batch rows."""

    def __init__(self, model: Any, can: Capabilities, room: Joins) -> None:
        self._make = partial(DecodeBatch, model, can, room)
        self.shared = self._make()
        self.separate = self._make()

    def fresh(self) -> DecodeBatch:
        """Return an empty batch for rows that begin."""
        return self._make()

    def __iter__(self) -> Iterator[Row]:
        yield from self.shared.rows
        yield from self.separate.rows

    def __len__(self) -> int:
        return len(self.shared) + len(self.separate)

    @property
    def held(self) -> list[Standing]:
        """Return all rows with what they have memory for."""
        return [*self.shared.held, *self.separate.held]

    def count(self, tier: Tier) -> int:
        """Return how many rows of a tier run."""
        return sum(row.request.tier is tier for row in self)

    @property
    def shared_rows(self) -> int:
        """Batch rows in the interactive rows' pass."""
        return sum(row.request.tier is Tier.BATCH for row in self.shared.rows)

    @property
    def can_share(self) -> bool:
        """Whether batch rows can be decoded in the interactive rows' pass."""
        return bool(self.shared_rows) or self.shared.can_share(self.separate)

    def of(self, tier: Tier) -> DecodeBatch:
        """Return the batch that a tier's rows begin in and that is stepped for it."""
        return self.shared if tier is Tier.INTERACTIVE else self.separate

    def arrange(self, tier: Tier, shared_rows: int) -> DecodeBatch:
        """Return the batch to step for a tier, with just ``shared_rows`` batch rows in the shared one, the most urgent.

        If moving rows fails, their caches may be damaged: whoever calls starts all of them again.
        """
        missing = shared_rows - self.shared_rows
        if missing < 0:
            present = sorted((r for r in self.shared.rows if r.request.tier is Tier.BATCH), key=_rank)
            self.separate.absorb(self.shared.split(present[missing:]))
        elif missing > 0:
            self.shared.absorb(self.separate.split(sorted(self.separate.rows, key=_rank)[:missing]))
        batch = self.of(tier)
        batch.regroup()
        return batch

    def take_all(self) -> list[Row]:
        """Drop everything; return the rows there were."""
        return self.shared.take_all() + self.separate.take_all()


def _rank(row: Row) -> tuple[int, float, int]:
    return (row.request.priority, row.request.arrived, row.request.id)
