"""Who may begin, and who makes room: a ledger of the key-value caches' bytes. Pure; the machine's numbers are given.

Theory of operation
-------------------
A request is admitted by what it needs now: its prompt, and ``STEP`` tokens of its answer. How long an answer may become
says nothing of how long it gets, so rows grow as they go; ``free`` is what the machine has left at the moment, of which
``HEADROOM`` tokens of growth belong to every row that runs. Rows decoded together are padded to the longest, so rows
join where there is room for that; else they are stepped in turns, which takes longer and no more memory. When room
ends, kept prefixes go first, then batch rows are set aside, the latest first, then chats, but never the last row: all
of them come back exactly where they were, by processing their prompt and answer anew. An interactive request takes the
room of batch rows; a batch request takes nobody's, but one that has waited for long keeps others from passing it by
(``patience``). What does not fit while nothing else runs never will, and is refused with the numbers. Prefixes are
given up only for who then begins. Margins are for company: who runs alone may use what others' growth and scratch are
otherwise kept for (``alone``).

A picture's work is in the sum: what a vision tower holds while it looks at a picture grows with its pixels (30 MB for
192 × 192 of the starter, a gigabyte for a page that a processor cuts in seventeen). It is measured at the largest
picture there was; until there was one it is guessed, and a guess makes a picture wait for others but refuses none. A
sound's work is counted in the same way, by what the processor made of it.

A timeline on a model of 144 KiB a token with 3 GiB free:

    chat A, 2,000 tokens and no max_tokens, needs 2,256 tokens, 317 MiB: begins (its whole context would be 36 GiB)
    batch job B, 12,000 tokens, needs 1.7 GiB: begins
    chat C, 8,000 tokens, needs 1.1 GiB and there are 1.0: B is set aside, C begins at once
    C ends: 2.6 GiB are free again, B goes on at the token it had
    chat D, 40,000 tokens, needs 5.5 GiB: beside A it waits; when nothing runs and it still does not fit it gets a 400
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STEP = 256
"""Tokens of its answer that a request must have room for when it begins."""

HEADROOM = 32
"""Tokens of growth every running row must have room for; with less, somebody makes room."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Bytes that a layer's cache takes for a row. ``window``: tokens it holds at most, 0 for all."""

    fixed: float = 0.0
    per_token: float = 0.0
    window: int = 0

    def bytes(self, tokens: int) -> float:
        """Return the bytes of a row of so many tokens."""
        return self.fixed + self.per_token * (min(tokens, self.window) if self.window else tokens)


@dataclass(frozen=True, kw_only=True)
class Media:
    """Numbers that a prompt's pictures (width × height × 3 of each) and sounds (samples or spectra) are to a model."""

    pictures: int = 0
    sounds: int = 0


NO_MEDIA = Media()


class Sense:
    """What a tower holds for each number it is given: guessed as ``value`` bytes until it was measured."""

    def __init__(self, value: float) -> None:
        self._value = value
        self._seen = 0  # numbers of the largest that was measured

    def learn(self, numbers: int, size: int) -> None:
        """Learn that so many numbers took ``size`` bytes while they were worked on; the most there were tell."""
        if numbers > self._seen:
            self._seen, self._value = numbers, max(0.0, size / numbers)

    def bytes(self, numbers: int, *, company: bool) -> float:
        """Return the bytes for so many numbers; without company it is nothing until it is known."""
        return numbers * self._value if self._seen or company else 0.0


@dataclass(frozen=True, kw_only=True)
class Held:
    """A running row or begun prompt: its tokens, and whether it is batch work.

    ``since``: monotonic seconds of its arrival; ``has``: tokens that its cache has memory for by now, None: just for
    those there are; ``longest``: tokens of the longest in its pass, whose padding it has. ``lasts``: it waited long for
    memory, and is set aside like a chat's. ``fixed``: it is in the midst of a unit and can't be set aside.
    """

    id: int
    tokens: int
    batch: bool
    since: float = 0.0
    has: int | None = None
    longest: int = 0
    lasts: bool = False
    fixed: bool = False

    @property
    def yields(self) -> bool:
        """Whether it makes way for a chat."""
        return self.batch and not (self.lasts or self.fixed)


class Ledger:
    """``free``: bytes the machine has left now, over what is in use. ``layers``: until they are measured, a guess.

    ``alone``: the same for a request that runs alone. ``value`` and ``heard``: bytes that towers are guessed to hold
    for each number of a picture and of a sound.
    """

    def __init__(
        self,
        free: Callable[[], int],
        layers: Sequence[Layer],
        *,
        alone: Callable[[], int] | None = None,
        value: float = 0.0,
        heard: float = 0.0,
    ) -> None:
        self.free = free
        self.alone = alone or free
        self.layers = tuple(layers)
        self.sight, self.hearing = Sense(value), Sense(heard)

    def now(self) -> Ledger:
        """Return a ledger that goes on by what is free at this moment, for many questions at once."""
        out, free, alone = copy.copy(self), self.free(), self.alone()
        out.free, out.alone = (lambda: free), (lambda: alone)
        return out

    def learn_media(self, media: Media, size: int) -> None:
        """Learn that a prompt's pictures, or its sounds, took ``size`` bytes; of both together nothing is learnt."""
        if not media.sounds:
            self.sight.learn(media.pictures, size)
        elif not media.pictures:
            self.hearing.learn(media.sounds, size)

    def work(self, media: Media, running: Sequence[Held]) -> float:
        """Return the bytes that looking at pictures and listening to sounds takes."""
        company = bool(running)
        return self.sight.bytes(media.pictures, company=company) + self.hearing.bytes(media.sounds, company=company)

    def row(self, tokens: int) -> float:
        """Return the bytes of a row of so many tokens."""
        return sum(layer.bytes(tokens) for layer in self.layers)

    def need(self, tokens: int, running: Sequence[Held], media: Media = NO_MEDIA) -> float:
        """Return the bytes by which memory grows when a request of so many tokens begins beside ``running``.

        Not less than its claim as soon as it runs: else it would be put back at once.
        """
        claim = self.growth([Held(id=0, tokens=tokens, batch=False, has=0)])
        return max(self.row(tokens + STEP), claim) + self.work(media, running)

    def join(self, rows: int, has: int, others: int, they_have: int) -> float:
        """Return the bytes by which memory grows when two passes' rows, with memory for so many tokens each, join."""
        apart = rows * self.row(has) + others * self.row(they_have)
        return (rows + others) * self.row(max(has, they_have)) - apart

    def room(self, running: Sequence[Held]) -> float:
        """Return the bytes that nobody has a claim on; less than nothing when rows that run have too little to grow."""
        return self.free() - self.growth(running) if running else max(self.free(), self.alone())

    def growth(self, running: Sequence[Held]) -> float:
        """Return the bytes that ``running`` take with ``HEADROOM`` tokens more each: caches grow ``STEP`` at a time.

        What is left of begun prompts is in it.
        """
        return sum(map(self._growth, running))

    def _growth(self, one: Held) -> float:
        ahead = -(-(max(one.tokens, one.longest) + HEADROOM) // STEP) * STEP
        return max(0.0, self.row(ahead) - self._taken(one))

    def _taken(self, one: Held) -> float:
        """Return the bytes that a row has, which are free when it is set aside."""
        return self.row(max(one.tokens, one.longest) if one.has is None else one.has)

    def fits(
        self, tokens: int, running: Sequence[Held], spare: float, *, before_batch: bool, media: Media = NO_MEDIA
    ) -> bool:
        """Return whether a request of so many tokens can begin if ``spare`` bytes are given up.

        ``before_batch``: batch rows would be set aside for it.
        """
        if self.need(tokens, running, media) <= self.room(running) + spare:
            return True
        if not before_batch:
            return False
        chats = [r for r in running if not r.yields]
        freed = sum(self._taken(r) for r in running if r.yields)
        return self.need(tokens, chats, media) <= self.room(chats) + freed + spare

    def make_way(self, tokens: int, running: Sequence[Held], media: Media = NO_MEDIA) -> list[int]:
        """Return the batch rows to set aside for a request of so many tokens, the latest first."""
        rest, freed, out = list(running), 0.0, list[int]()
        for one in sorted((r for r in running if r.yields), key=lambda r: -r.since):
            if self.need(tokens, rest, media) <= self.room(rest) + freed:
                break
            rest.remove(one)
            freed += self._taken(one)
            out.append(one.id)
        return out

    def set_aside(self, missing: float, running: Sequence[Held]) -> list[int]:
        """Return which rows to set aside for ``missing`` bytes: batch rows, the latest first, then chats.

        What they would have grown by is then not missing, either. One always stays. Empty where nothing is missing.
        """
        order = sorted((r for r in running if r.yields), key=lambda r: -r.since)
        order += sorted((r for r in running if not r.yields), key=lambda r: -r.since)
        order = [r for r in order if not r.fixed][: max(0, len(running) - 1)]
        out = list[int]()
        for one in order:
            if missing <= 0:
                break
            missing -= self._taken(one) + self._growth(one)
            out.append(one.id)
        return out
