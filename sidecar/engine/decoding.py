"""The rows of a tier that are being decoded, in as few forward passes as the model allows.

Theory of operation
-------------------
A step of a ``DecodeBatch`` gives each of its rows one token. Rows stand in lanes: those of a lane share a forward pass,
because the weights are then read once for all of them. Most models have a single lane. Where a model can't decode rows
together (``Capabilities.batch``), or two rows' caches can't be joined, each row has a lane of its own and the lanes are
stepped one after another: slower, and right. So it is for a while where memory is too short for a short row's padding
to the length of the others (``regroup``). A row that is tried again after a fault is alone in its lane, too, so that
whatever was wrong with it can't take another row down.

A lane works one token ahead. With a step of 20 ms on the device and 2 ms of reading and sending:

    0 ms    step 1 launches token 1 and, since nothing else is to be done, token 2 behind it
    20 ms   token 1 is there, is read and sent, while the device computes token 2
    22 ms   step 2 launches token 3 and waits for token 2
    40 ms   token 2 is there: a token every 20 ms, not every 22

Beside other work nothing is left in flight: it would be waited for, and paid, by what comes next.

A lane that breaks (an exception in its pass) is dropped with its rows, which ``broken`` names; the other lanes go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from sidecar.backend import mixing
from sidecar.backend.cache_sizes import capacity
from sidecar.backend.families import Capabilities
from sidecar.backend.passes import RowState
from sidecar.engine.choosing import Chosen, Row
from sidecar.engine.lanes import Lane
from sidecar.engine.rows import Token
from sidecar.errors import check_memory

log = logging.getLogger("sidecar.engine")


class Standing(NamedTuple):
    """A row in its lane. ``has``: tokens that the lane's cache has memory for, 0 where that isn't known.

    ``longest``: tokens of the longest row of the lane.
    """

    row: Row
    has: int
    longest: int


Joins = Callable[[int, int, int, int], bool]
"""Says whether so many rows with memory for so many tokens may join so many others with theirs."""


class DecodeBatch:
    """Rows stepped together. ``broken``: rows whose lane broke at the last step, and why.

    ``room``: says whether there is room for the padding when two lanes join.
    """

    def __init__(self, model: Any, can: Capabilities, room: Joins = lambda *_: True) -> None:
        self._model = model
        self._can = can
        self._room = room
        self._lanes: list[Lane] = []
        self.broken: list[tuple[list[Row], Exception]] = []

    def __len__(self) -> int:
        return sum(len(lane.rows) for lane in self._lanes)

    @property
    def rows(self) -> list[Row]:
        """All rows, lane by lane."""
        return [row for lane in self._lanes for row in lane.rows]

    @property
    def held(self) -> list[Standing]:
        """Return all rows with what they have memory for."""
        return [
            Standing(row, capacity(lane.cache), longest)
            for lane in self._lanes
            for longest in [max(row.tokens for row in lane.rows)]
            for row in lane.rows
        ]

    @property
    def apart(self) -> bool:
        """Whether rows that could share a pass have one each for want of memory."""
        return len(self._lanes) > 1 and not self._can.batch

    @property
    def in_flight(self) -> bool:
        """Whether tokens were launched that nobody has read."""
        return any(lane.in_flight for lane in self._lanes)

    @property
    def steady(self) -> bool:
        """Whether the rows are the same as at the last step."""
        return all(lane.steady for lane in self._lanes)

    @property
    def computed(self) -> bool:
        """Whether the last step launched passes, and did not only read what was in flight."""
        return any(lane.computed for lane in self._lanes)

    @property
    def guessed(self) -> int:
        """Tokens that the last step guessed."""
        return sum(lane.guessed for lane in self._lanes)

    def place(self, row: Row) -> tuple[list[Any], int]:
        """Return the caches that hold a row's keys and values, and its number in them."""
        lane = next(lane for lane in self._lanes if row in lane.rows)
        return lane.cache, lane.rows.index(row)

    def company(self, row: Row) -> int:
        """Return how many rows are decoded in a row's pass, itself counted."""
        return next((len(lane.rows) for lane in self._lanes if row in lane.rows), 0)

    def add(self, rows: Sequence[Row], cache: list[Any], chosen: Chosen, state: RowState) -> None:
        """Join rows whose prompt is done; ``chosen`` has their first tokens, already read."""
        lane = Lane(self._model, rows, cache, chosen, state)
        if self._can.batch and len(rows) > 1:
            for row in rows[1:]:
                self._take(lane.split([row]))
        self._take(lane)

    def can_share(self, other: DecodeBatch) -> bool:
        """Return whether rows of another batch can be decoded in the same pass as rows of this one."""
        if not (self._lanes and other._lanes):
            return not self._can.batch
        return not self._can.batch and any(self._joins(a, b) for a in self._lanes for b in other._lanes)

    def absorb(self, other: DecodeBatch) -> None:
        """Take in the rows of another batch, in flight or not; it is empty afterwards."""
        lanes, other._lanes = other._lanes, []
        for lane in lanes:
            self._take(lane)

    def _joins(self, one: Lane, other: Lane) -> bool:
        return one.joins(other) and self._room(
            len(one.rows), capacity(one.cache), len(other.rows), capacity(other.cache)
        )

    def regroup(self) -> None:
        """Let lanes join that were kept apart for want of memory, where there is room by now."""
        if self.apart:
            lanes, self._lanes = self._lanes, []
            for lane in lanes:
                self._take(lane)

    def _take(self, lane: Lane) -> None:
        into = None if self._can.batch else next((known for known in self._lanes if self._joins(known, lane)), None)
        if into is not None:
            try:
                into.join(lane)
                return
            except Exception as exc:
                check_memory(exc)
                if self._can.rule_out("batch", f"rows can't be joined ({exc})"):
                    log.warning("rows of this model can't be joined: one at a time from now on", exc_info=exc)
        self._lanes.append(lane)

    def split(self, part: Sequence[Row]) -> DecodeBatch:
        """Take rows out into a batch of their own; all go on exactly where they were."""
        out = DecodeBatch(self._model, self._can, self._room)
        for lane in list(self._lanes):
            going = [row for row in lane.rows if row in part]
            if len(going) == len(lane.rows):
                self._lanes.remove(lane)
                out._lanes.append(lane)
            elif going:
                out._lanes.append(lane.split(going))
        return out

    def step_with(
        self, pieces: Sequence[mixing.Tokens], last: Sequence[mixing.Tokens]
    ) -> tuple[list[tuple[Row, Token]], mx.array]:
        """Decode as ``step``, nothing in flight, the first lane in a pass shared with ``pieces`` of prompts.

        Returns the tokens, and the scores [n, V] after those pieces that stand in ``last``. Raises what that pass
        raises: rows and prompts of it must then be begun again.
        """
        self.broken = []
        first = self._lanes[0]
        out, scores = first.step_with(pieces, last)
        for lane in self._lanes[1:]:
            try:
                out += lane.step(ahead=False, guesses=0)
            except Exception as exc:
                self._lanes.remove(lane)
                self.broken.append((lane.rows, exc))
        return out, scores

    def step(self, *, ahead: bool = True, guesses: int = 0) -> list[tuple[Row, Token]]:
        """Decode; return the tokens read, at most one a row. ``ahead``: leave the next ones being computed.

        ``guesses``: of a single row so many of the tokens after the next are guessed, and come with it if right.
        """
        self.broken = []
        out: list[tuple[Row, Token]] = []
        guesses = guesses if len(self) == 1 else 0
        for lane in list(self._lanes):
            try:
                out += lane.step(ahead=ahead, guesses=guesses)
            except Exception as exc:
                self._lanes.remove(lane)
                self.broken.append((lane.rows, exc))
        return out

    def remove(self, gone: Sequence[Row]) -> None:
        """Drop rows; the others go on exactly where they were."""
        for lane in list(self._lanes):
            going = [row for row in lane.rows if row in gone]
            if len(going) == len(lane.rows):
                self._lanes.remove(lane)
            elif going:
                lane.remove(going)

    def take_all(self) -> list[Row]:
        """Drop everything; return the rows there were."""
        rows, self._lanes = self.rows, []
        return rows
