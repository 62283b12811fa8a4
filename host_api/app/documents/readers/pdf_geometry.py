"""A PDF page's box and turn: from the coordinates of the file to those of the page as shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Geometry:
    """A page's box and turn, and from them the way from its own coordinates to the page as shown."""

    left: float
    bottom: float
    width: float  # as stored, before the turn
    height: float
    turn: int

    @classmethod
    def of(cls, page: Any) -> Geometry:
        """Return a page's geometry."""
        turn = page.get_rotation() % 360
        width, height = page.get_size()
        if turn in (90, 270):
            width, height = height, width
        left, bottom, _, _ = page.get_bbox()
        return cls(left, bottom, width, height, turn)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height as shown."""
        return (self.height, self.width) if self.turn in (90, 270) else (self.width, self.height)

    def box(self, left: float, bottom: float, right: float, top: float) -> Box:
        """Return a rectangle of the page's own coordinates as it is shown."""
        corners = [self._point(x, y) for x in (left, right) for y in (bottom, top)]
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        return min(xs), min(ys), max(xs), max(ys)

    def _point(self, x: float, y: float) -> tuple[float, float]:
        x, y = x - self.left, y - self.bottom
        if self.turn == 90:
            return y, x
        if self.turn == 180:
            return self.width - x, y
        if self.turn == 270:
            return self.height - y, self.width - x
        return x, self.height - y
