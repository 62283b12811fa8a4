"""A thought of at most so many tokens: when they are spent, the model may only write what ends the thought.

It stands before a row's grammar, if there is one, and is asked in its place. The end marker is most often one token;
where it is several, they are forced one after the other, as far as the grammar lets them. In the middle of a character
nothing is forced. A model with channels is led into that of its answer, else it would begin another thought.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from sidecar.engine.grammar import Constraint
from sidecar.text.detokenizer import Vocabulary
from sidecar.text.harmony import FINAL, THOUGHT, THOUGHT_END
from sidecar.text.language import Language

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_LEAD = 2
"""Tokens of space that may stand before a thought."""


class BudgetedThought:
    """The state of one row's thought. ``start`` and ``end``: the markers' tokens; ``budget``: tokens between them.

    ``closing``: tokens that end a thought by themselves, after which another may begin, where ``end`` is more than
    that; (): there is one thought, and ``end`` ends it. ``words``: the tokens' bytes; None: each is whole characters.
    """

    def __init__(
        self,
        inner: Constraint | None,
        *,
        start: tuple[int, ...],
        end: tuple[int, ...],
        budget: int,
        inside: bool,
        closing: tuple[int, ...] = (),
        words: Vocabulary | None = None,
    ) -> None:
        self._inner = inner
        self._start, self._end = start, end
        self._budget = budget
        self._inside = inside
        self._over = False  # the one thought has ended, or none began
        self._before = 0  # tokens ahead of the start marker
        self._spent = 0
        self._tail: list[int] = []
        self._closing = closing
        self._words = words
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def finished(self) -> bool:
        """Whether nothing more may follow."""
        return self._inner.finished if self._inner is not None else False

    def accept(self, token: int) -> None:
        """Move on by the token chosen. Raises GrammarError when the grammar forbids it."""
        if self._inner is not None:
            self._inner.accept(token)
        if self._over:
            return
        if self._words is not None:
            self._utf8.decode(self._words.bytes_of(token))
        self._tail = [*self._tail, token][-max(len(self._start), len(self._end)) :]
        if not self._inside:
            self._before += 1
            if self._ends_with(self._start):
                self._inside, self._tail = True, []
            elif self._before > len(self._start) + _LEAD:
                self._over = True  # it answers without a thought; a marker later on is text
            return
        if self._ends_with(self._end):
            self._over = True
        elif self._closing and self._spent < self._budget and self._ends_with(self._closing):
            self._inside, self._before, self._tail = False, 0, []
        elif self._forced() is None or self._spent < self._budget:
            self._spent += 1

    def mask(self, width: int) -> NDArray[np.bool_] | None:
        """Return which of ``width`` tokens may come next [width]; None: any."""
        inner = self._inner.mask(width) if self._inner is not None else None
        forced = self._forced()
        if forced is None:
            return inner
        if forced >= width or (inner is not None and not inner[forced]):
            self._over = forced != self._end[0]  # within the end, the grammar has its own way from here
            return inner
        import numpy as np

        allowed = np.zeros(width, dtype=np.bool_)
        allowed[forced] = True
        return allowed

    def copy(self) -> BudgetedThought:
        """Return an independent one in the same state."""
        inner = self._inner.copy() if self._inner is not None else None
        other = BudgetedThought(
            inner,
            start=self._start,
            end=self._end,
            budget=self._budget,
            inside=self._inside,
            closing=self._closing,
            words=self._words,
        )
        other._over, other._before, other._spent = self._over, self._before, self._spent
        other._tail = list(self._tail)
        other._utf8.setstate(self._utf8.getstate())
        return other

    def _ends_with(self, marker: tuple[int, ...]) -> bool:
        return tuple(self._tail[-len(marker) :]) == marker

    def _forced(self) -> int | None:
        """Return the token that must come next, None while the model may choose."""
        if not self._inside or self._over or self._spent < self._budget:
            return None
        begun = next((n for n in range(len(self._end) - 1, 0, -1) if self._ends_with(self._end[:n])), 0)
        if begun == 0 and self._utf8.getstate()[0]:
            return None  # in the middle of a character
        return self._end[begun]


def budgeted(
    language: Language, inner: Constraint | None, budget: int, *, inside: bool
) -> Constraint | BudgetedThought | None:
    """Return a constraint that lets a thought last ``budget`` tokens; ``inner`` for a model that doesn't think.

    ``inside``: the prompt opened the thought.
    """
    if not language.thinks:
        return inner
    markers = language.thinking
    start, end = (THOUGHT, FINAL) if markers is None else (markers.start, markers.end)
    return BudgetedThought(
        inner,
        start=language.tokens(start),
        end=language.tokens(end),
        budget=budget,
        inside=inside,
        closing=language.tokens(THOUGHT_END) if markers is None else (),
        words=language.vocabulary,
    )
