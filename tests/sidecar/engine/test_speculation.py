"""What is looked up in a row's own text."""

from __future__ import annotations

import pytest

from sidecar.engine.speculation import Lookup


@pytest.mark.parametrize(
    ("tokens", "guess"),
    [
        ([], []),
        ([1], []),
        ([1, 2, 3, 4], []),
        ([1, 2, 3, 9, 1, 2], [3, 9, 1]),  # what followed
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),  # the last time
        ([7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], [3, 8, 1]),  # the longest ending first
        ([5, 5, 5], [5]),  # an ending may overlap with what it repeats
        ([1, 2, 3, 1, 3], []),  # one token alone says too little
    ],
)
def test_guesses_are_what_followed_the_longest_ending(tokens: list[int], guess: list[int]) -> None:
    assert Lookup(tokens).guess(3) == guess
    grown = Lookup(())
    for token in tokens:
        grown.extend([token])
    assert grown.guess(3) == guess
    assert len(grown) == len(tokens)


def test_no_more_than_asked_for() -> None:
    assert Lookup([1, 2, 3, 4, 1, 2]).guess(1) == [3]
    assert Lookup([1, 2, 3, 4, 1, 2]).guess(0) == []
