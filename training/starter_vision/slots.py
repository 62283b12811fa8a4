"""What each image token says: the tower writes a short fixed form about the picture, one entry a token.

The frozen language model can't count dots or compare places, but it reads well. So the last layers of the tower
fill in a form: what is left or above, what is right or below, how many of every shape, the word and its letters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.starter_vision import emoji
from training.starter_vision.questions import NUMBERS, plural
from training.starter_vision.scenes import COLOUR_NAMES, SHAPES, SIDE, Thing

TOKENS = 36
LETTERS = 6
ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_ROWS, _COLUMNS = ("top", "center", "bottom"), ("left", "center", "right")


@dataclass(frozen=True)
class Slot:
    """An image token's place in the form; ``words[v]`` is what value v would be in text, "" for nothing."""

    name: str
    words: tuple[tuple[str, ...], ...]


def _texts(*words: str) -> tuple[tuple[str, ...], ...]:
    return tuple((w,) if w else () for w in words)


def form(lexicon: list[str]) -> tuple[Slot, ...]:
    """The form's entries in the order of the image tokens; entries named "free" are the same in every picture."""
    names = tuple(emoji.name(c) for c in emoji.CHARACTERS)
    whole = tuple((n,) for n in names)  # which part of a name stands where is up to the codes
    free = Slot("free", ((),))
    thing = (
        Slot("first", ((), *_texts(*COLOUR_NAMES), *whole)),
        Slot("second", ((), *_texts(*SHAPES), *whole)),
        Slot("third", ((), (), *whole)),
        Slot("relation", ((), *_texts(*RELATIONS))),
    )
    counted = [plural(s) for s in SHAPES] + ["shapes", "emoji"]
    numbers = (*NUMBERS, "seven", "eight", "nine")
    places = tuple((row, column) for row in _ROWS for column in _COLUMNS)
    entries = [
        *(free,) * 4,
        *(Slot(f"a.{s.name}", s.words) for s in thing),
        *(Slot(f"b.{s.name}", s.words) for s in thing),
        *(Slot(f"count.{c}", tuple((n, c) for n in numbers)) for c in counted),
        Slot("place", ((), *places)),
        Slot("ground", ((), *_texts(*COLOUR_NAMES))),
        Slot("word", ((), *_texts(*lexicon))),
        *(Slot(f"letter.{i}", ((), *_texts(*ALPHABET))) for i in range(LETTERS)),
        Slot("case", _texts("", "small", "capital", "capitals", "letters")),
        *(free,) * 4,
    ]
    assert len(entries) == TOKENS
    return tuple(entries)


_A, _B, _COUNTS, _PLACE, _GROUND, _WORD, _LETTER, _CASE = 4, 8, 12, 22, 23, 24, 25, 31


def fill(things: tuple[Thing, ...], *, ground: str | None, word: str, lexicon: dict[str, int]) -> np.ndarray:
    """The form of a picture: [TOKENS] int16; -1 where the picture leaves it open. ``ground`` None: no one colour."""
    out = np.zeros(TOKENS, np.int16)
    counts = [sum(t.emoji < 0 and t.shape == s for t in things) for s in range(len(SHAPES))]
    counts += [len(things), sum(t.emoji >= 0 for t in things)]
    out[_COUNTS : _COUNTS + len(counts)] = np.minimum(counts, 9)
    out[_GROUND] = -1 if not ground else 1 + COLOUR_NAMES.index(ground)
    if word:
        _spell(out, word, lexicon)
        return out
    labels = {t.label for t in things}
    if len(labels) == 1:
        out[_A : _A + 3] = _thing(things[0])
    elif len(things) == 2:
        _pair(out, *things)
    elif len({t.shape for t in things}) == 1 and things[0].emoji < 0:
        out[_A + 1] = 1 + things[0].shape
    if len(things) == 1:
        out[_PLACE] = 1 + min(2, int(things[0].y * 3 / SIDE)) * 3 + min(2, int(things[0].x * 3 / SIDE))
    return out


def _thing(thing: Thing) -> tuple[int, int, int]:
    if thing.emoji >= 0:
        return 1 + len(COLOUR_NAMES) + thing.emoji, 1 + len(SHAPES) + thing.emoji, 2 + thing.emoji
    return 1 + thing.colour, 1 + thing.shape, 1


def relation(a: Thing, b: Thing) -> str:
    """Where ``a`` is, seen from ``b``; "" when it lies too much aslant to say."""
    dx, dy = a.x - b.x, a.y - b.y
    if max(abs(dx), abs(dy)) < 50 or min(abs(dx), abs(dy)) > 0.7 * max(abs(dx), abs(dy)):
        return ""
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def _pair(out: np.ndarray, a: Thing, b: Thing) -> None:
    where = relation(a, b)
    if not where:
        out[_A : _B + 4] = -1
        return
    if where in ("right", "below"):
        a, b, where = b, a, OPPOSITE[where]
    out[_A : _A + 4] = (*_thing(a), 1 + RELATIONS.index(where))
    out[_B : _B + 4] = (*_thing(b), 1 + RELATIONS.index(OPPOSITE[where]))


def _spell(out: np.ndarray, word: str, lexicon: dict[str, int]) -> None:
    out[_WORD] = lexicon.get(word.lower(), 0)
    for i, letter in enumerate(word[:LETTERS]):
        out[_LETTER + i] = 1 + ALPHABET.index(letter)
    if not out[_WORD]:
        out[_CASE] = 4
    else:
        out[_CASE] = 1 if word.islower() else 3 if len(word) > 1 and word.isupper() else 2
