"""Speculative decoding by prompt lookup: what followed the same tokens before is guessed to follow them again.

No second model is needed (Saxena 2023, "prompt lookup decoding"; vLLM's method ``ngram``). The model verifies all
guesses in one pass. A token's choice depends on its scores, seed and position alone, so an answer is the same with
guesses and without: a guess stands where it is the very token that would have been chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST, SHORTEST = 4, 2
"""Tokens of an ending that is looked up, at most and at least."""


class Lookup:
    """The tokens of one row so far and where each short sequence of them was last followed by something."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add what came."""
        for token in tokens:
            end = len(self._tokens)
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self._after[tuple(self._tokens[end - length :])] = end
            self._tokens.append(token)

    def guess(self, count: int) -> list[int]:
        """Up to ``count`` tokens that followed the longest ending seen before; [] when none was."""
        for length in range(min(LONGEST, len(self._tokens)), SHORTEST - 1, -1):
            start = self._after.get(tuple(self._tokens[-length:]))
            if start is not None:
                return self._tokens[start : start + count]
        return []


def check(model: Any) -> None:
    """Raise ValueError, saying why, for a model whose key-value caches can't take guesses back."""
    from sidecar.backend.caches import without_rewind

    if kinds := without_rewind(model):
        raise ValueError(f"its caches can't take tokens back ({', '.join(kinds)}); start without --speculative-tokens")
