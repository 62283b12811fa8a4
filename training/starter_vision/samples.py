"""One training or test sample: a picture, a question, its answer, and what is where (for the helper heads)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image

from training.starter_vision import emoji, questions, scenes, slots
from training.starter_vision.scenes import COLOUR_NAMES, SHAPES, SIDE, Kit, Letters, Thing

KINDS = ("colour_shape", "count", "relation", "emoji", "word")


@dataclass(frozen=True)
class Sample:
    """``wanted``: each must occur in the answer, ignoring case; an entry's "|" parts are alternatives."""

    image: Image.Image
    kind: str
    question: str
    answer: str
    wanted: tuple[str, ...] = ()
    things: tuple[Thing, ...] = ()
    word: str = ""
    letters: Letters | None = None
    ground: str = ""
    spelled: str = ""  # the answer gives this letter by letter

    def right(self, answer: str) -> bool:
        """Whether an answer says what is in the picture."""
        words = " " + "".join(c if c.isalnum() else " " for c in answer.lower()) + " "
        words = " ".join(words.split()).join((" ", " "))
        return all(any(f" {part.lower()} " in words for part in w.split("|")) for w in self.wanted)

    def form(self, lexicon: dict[str, int]) -> np.ndarray:
        """What the image tokens should say, ``slots.fill``."""
        return slots.fill(self.things, ground=self.ground, word=self.word, lexicon=lexicon)


def _shape_name(thing: Thing) -> str:
    return f"{COLOUR_NAMES[thing.colour]} {SHAPES[thing.shape]}"


def _name(thing: Thing) -> str:
    return _shape_name(thing) if thing.emoji < 0 else emoji.name(emoji.CHARACTERS[thing.emoji])


def _a(thing: Thing) -> str:
    name = _name(thing)
    return emoji.with_article(name) if thing.emoji >= 0 else f"{'an' if name[0] == 'o' else 'a'} {name}"


def _put(image: Image.Image, thing: Thing, rng: Random, split: str, kit: Kit) -> Thing:
    """Draw ``thing``; a shape's colour is drawn anew until it stands out."""
    if thing.emoji >= 0:
        scenes.draw_emoji(image, thing, rng, split, kit)
        return thing
    rgb = scenes.jitter(rng, COLOUR_NAMES[thing.colour])
    if not scenes.stands_out(image, thing.x, thing.y, thing.r, rgb):
        raise _AgainError
    scenes.draw_shape(image, thing, rng, split, rgb)
    return thing


class _AgainError(Exception):
    """This picture didn't work out: draw another."""


def _position(thing: Thing) -> str:
    column = ("left", "center", "right")[min(2, int(thing.x * 3 / SIDE))]
    row = ("top", "center", "bottom")[min(2, int(thing.y * 3 / SIDE))]
    if row == column:
        return "in the center"
    if "center" in (row, column):
        return f"at the {row if column == 'center' else column}"
    return f"in the {row} {column}"


def _new(rng: Random, x: float, y: float, r: float, *, emoji_part: float) -> Thing:
    if rng.random() < emoji_part:
        return Thing(x, y, r, emoji=rng.randrange(len(emoji.CHARACTERS)))
    return Thing(x, y, r, shape=rng.randrange(len(SHAPES)), colour=rng.randrange(len(COLOUR_NAMES)))


def _single(rng: Random, split: str, kit: Kit) -> Sample:
    image, ground = scenes.background(rng, split)
    r = rng.uniform(24, 105)
    x, y = (rng.uniform(r + 1, SIDE - r - 1) for _ in "xy")
    thing = _put(image, _new(rng, x, y, r, emoji_part=0), rng, split, kit)
    colour, shape = COLOUR_NAMES[thing.colour], SHAPES[thing.shape]
    whole = f"{colour} {shape}"
    luck = rng.random()
    if split == "test":
        forms = questions.COLOUR_SHAPE if luck < 0.5 else questions.WHAT
        question = questions.phrase(rng, split, forms)
        answer = questions.sentence(_a(thing))
    elif luck < 0.3:
        question, answer = questions.phrase(rng, split, questions.WHAT), questions.sentence(_a(thing))
    elif luck < 0.5:
        question, answer = questions.phrase(rng, split, questions.COLOUR_SHAPE), questions.sentence(_a(thing))
    elif luck < 0.64:
        question = questions.phrase(rng, split, questions.COLOUR_OF, shape=shape)
        answer = f"The {shape} is {colour}."
    elif luck < 0.76:
        question = questions.phrase(rng, split, questions.SHAPE_OF, colour=colour)
        answer = questions.sentence(_a(thing))
    elif luck < 0.86:
        question = questions.phrase(rng, split, questions.PLACE, a=f"the {whole}")
        answer = f"The {whole} is {_position(thing)}."
    elif luck < 0.92 and ground:
        question = questions.phrase(rng, split, questions.GROUND)
        answer = f"The background is {ground}."
    else:
        other = _new(rng, 0, 0, 1, emoji_part=0.1)
        asked = thing if rng.random() < 0.5 else other
        question = questions.phrase(rng, split, questions.PRESENT, a=_a(asked))
        answer = f"Yes, this is {_a(thing)}." if asked.label == thing.label else f"No, this is {_a(thing)}."
    return Sample(image, "colour_shape", question, answer, (colour, shape), (thing,), ground=ground)


def _count(rng: Random, split: str, kit: Kit) -> Sample:
    image, ground = scenes.background(rng, split)
    number = rng.randint(1, 5 if split == "test" else 6)
    others = 0 if rng.random() < 0.5 else rng.randint(1, 3)
    base = rng.uniform(16, 36 if number + others <= 6 else 27)
    radii = [base * rng.uniform(0.8, 1.25) for _ in range(number + others)]
    places = scenes.scatter(rng, radii)
    if places is None:
        raise _AgainError
    shape, colour = rng.randrange(len(SHAPES)), rng.randrange(len(COLOUR_NAMES))
    same = rng.random() < 0.6
    as_emoji = rng.randrange(len(emoji.CHARACTERS)) if rng.random() < (0.12 if split == "test" else 0.25) else -1
    things = []
    for i, ((x, y), r) in enumerate(zip(places, radii, strict=True)):
        if i < number and as_emoji >= 0:
            thing = Thing(x, y, r, emoji=as_emoji)
        elif i < number:
            for _ in range(6):
                thing = Thing(x, y, r, shape=shape, colour=colour if same else rng.randrange(len(COLOUR_NAMES)))
                try:
                    things.append(_put(image, thing, rng, split, kit))
                    break
                except _AgainError:
                    if same:
                        raise
            else:
                raise _AgainError
            continue
        else:
            other = (shape + rng.randrange(1, len(SHAPES))) % len(SHAPES)
            thing = Thing(x, y, r, shape=other, colour=rng.randrange(len(COLOUR_NAMES)))
        things.append(_put(image, thing, rng, split, kit))
    total, noun = number, SHAPES[shape]
    if as_emoji >= 0:
        total, noun = number, "emoji"
    elif others == 0 and rng.random() < 0.3:
        noun = rng.choice(("shape", "object"))
    elif same and rng.random() < 0.35:
        noun = f"{COLOUR_NAMES[colour]} {noun}"
    many = noun if noun == "emoji" else questions.plural(noun)
    question = questions.phrase(rng, split, questions.HOW_MANY, things=many)
    word = questions.NUMBERS[total]
    answer = f"There is one {noun}." if total == 1 else f"There are {word} {many}."
    if split == "train" and as_emoji < 0 and same and others == 0 and rng.random() < 0.2:
        question = questions.phrase(rng, split, questions.WHAT)
        coloured = f"{COLOUR_NAMES[colour]} {SHAPES[shape]}"
        answer = f"{word} {questions.plural(coloured)}" if total > 1 else _a(things[0])
        answer = questions.sentence(answer)
    return Sample(image, "count", question, answer, (f"{word}|{total}",), tuple(things), ground=ground)


_LONG = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


def _relation(rng: Random, split: str, kit: Kit) -> Sample:
    image, ground = scenes.background(rng, split)
    radii = [rng.uniform(20, 48) for _ in range(2)]
    places = scenes.scatter(rng, radii)
    if places is None:
        raise _AgainError
    part = rng.choice((0.0, 0.0, 1.0, 0.5))
    a, b = (_new(rng, x, y, r, emoji_part=part) for (x, y), r in zip(places, radii, strict=True))
    if a.label == b.label:
        raise _AgainError
    relation = slots.relation(a, b)
    if not relation:
        raise _AgainError
    sideways = relation in ("left", "right")
    things = tuple(_put(image, t, rng, split, kit) for t in (a, b))
    the_a, the_b = f"the {_name(a)}", f"the {_name(b)}"
    stated = f"The {_name(a)} is {_LONG[relation]} {the_b}."
    luck = rng.random()
    if split == "test" or luck < 0.45:
        forms = questions.SIDE if sideways else questions.HEIGHT
        question, answer = questions.phrase(rng, split, forms, a=the_a, b=the_b), stated
    elif luck < 0.6:
        question, answer = questions.phrase(rng, split, questions.WHERE, a=the_a, b=the_b), stated
    elif luck < 0.75:
        asked = relation if rng.random() < 0.5 else slots.OPPOSITE[relation]
        question = questions.phrase(rng, split, questions.YES_NO, a=the_a, b=the_b, relation=_LONG[asked])
        answer = f"{'Yes' if asked == relation else 'No'}, {stated[0].lower()}{stated[1:]}"
    elif luck < 0.88:
        question = questions.phrase(rng, split, questions.WHICH_LEFT, b=the_b, relation=_LONG[relation])
        answer = questions.sentence(_a(a))
    else:
        question = questions.phrase(rng, split, questions.WHAT)
        first, second, where = (a, b, relation) if relation in ("left", "above") else (b, a, slots.OPPOSITE[relation])
        answer = questions.sentence(f"{_a(first)} {_LONG[where]} {_a(second)}")
    wanted = {"above": "above|over|higher|top", "below": "below|under|lower|bottom"}.get(relation, relation)
    return Sample(image, "relation", question, answer, (wanted,), things, ground=ground)


def _emoji(rng: Random, split: str, kit: Kit) -> Sample:
    image, ground = scenes.background(rng, split)
    r = rng.uniform(30, 110)
    margin = min(r, SIDE / 2 - 1) * 0.95
    x, y = (rng.uniform(margin, SIDE - margin) for _ in "xy")
    thing = _put(image, _new(rng, x, y, r, emoji_part=1), rng, split, kit)
    luck = rng.random()
    if split == "test" or luck < 0.82:
        forms = questions.WHAT if rng.random() < 0.6 else questions.EMOJI
        question, answer = questions.phrase(rng, split, forms), questions.sentence(_a(thing))
    elif luck < 0.92:
        other = _new(rng, 0, 0, 1, emoji_part=0.9)
        asked = thing if rng.random() < 0.5 else other
        question = questions.phrase(rng, split, questions.PRESENT, a=_a(asked))
        answer = f"{'Yes' if asked.label == thing.label else 'No'}, this is {_a(thing)}."
    else:
        question = questions.phrase(rng, split, questions.PLACE, a=f"the {_name(thing)}")
        answer = f"The {_name(thing)} is {_position(thing)}."
    wanted = _name(thing).removesuffix(" face").removeprefix("pair of ")
    return Sample(image, "emoji", question, answer, (wanted,), (thing,), ground=ground)


def _word(rng: Random, split: str, kit: Kit) -> Sample:
    image, ground = scenes.background(rng, split)
    luck = rng.random()
    if split == "test" or luck < 0.66:
        word = rng.choice(kit.words["common"])
    elif luck < 0.92:
        word = rng.choice(kit.words["rare"])
    else:
        word = str(rng.randrange(10 ** rng.randint(1, 4)))
    word = word[:6]
    luck = rng.random()
    if luck > 0.68:
        word = word.capitalize() if luck < 0.87 else word.upper()
    letters = scenes.draw_word(image, word, rng, split, kit)
    if letters is None:
        raise _AgainError
    forms = questions.READ if rng.random() < 0.85 else questions.WHAT
    if split == "test":
        forms = questions.READ
    question, answer = questions.phrase(rng, split, forms), f"It says {word}."
    known = word.lower() in kit.lexicon
    if known and len(word) > 1 and word.isupper():
        answer = f"It says {word.lower()} in capital letters."
    spelled = "" if known else word
    return Sample(image, "word", question, answer, (word,), (), word, letters, ground, spelled)


_MAKERS: dict[str, Callable[[Random, str, Kit], Sample]] = {
    "colour_shape": _single,
    "count": _count,
    "relation": _relation,
    "emoji": _emoji,
    "word": _word,
}
SHARES = (0.12, 0.26, 0.2, 0.17, 0.25)
"""Of each of ``KINDS`` in what is trained with."""


def make(rng: Random, split: str, kit: Kit, kind: str = "", *, shares: Sequence[float] = SHARES) -> Sample:
    """A sample of ``kind``, or of a random one."""
    while True:
        chosen = kind or rng.choices(KINDS, shares)[0]
        try:
            return _MAKERS[chosen](rng, split, kit)
        except _AgainError:
            continue
