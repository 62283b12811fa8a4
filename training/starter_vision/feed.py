"""Samples from worker processes, over plain shared memory and pipes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from training.starter_vision import emoji, samples, slots
from training.starter_vision.scenes import SHAPES, SIDE, Kit
from training.starter_vision.tokens import LENGTH, Tokens

CHUNK = 128  # samples handed over at once
THINGS = 10
_SLOTS = 4  # chunks a worker may be ahead

FIELDS: dict[str, tuple[tuple[int, ...], type]] = {
    "image": ((SIDE, SIDE, 3), np.uint8),
    "ids": ((LENGTH,), np.int32),
    "span": ((2,), np.int32),
    "form": ((slots.TOKENS,), np.int16),
    "things": ((THINGS, 5), np.float32),  # x, y, r, dense class, colour; r 0 where there is none
    "letters": ((slots.LETTERS, 4), np.float32),  # x, y, half width, dense class
    "word": ((2,), np.float32),  # half height, angle
    "kind": ((), np.int16),
}


@dataclass(frozen=True)
class Arrays:
    """Views of one chunk in shared memory."""

    of: dict[str, np.ndarray]

    @classmethod
    def over(cls, memory: mmap.mmap, start: int) -> Arrays:
        """The arrays that begin at byte ``start``."""
        views = {}
        for name, (shape, kind) in FIELDS.items():
            view = np.ndarray((CHUNK, *shape), kind, memory, start)
            views[name] = view
            start += -(-view.nbytes // 64) * 64
        return cls(views)

    @staticmethod
    def size() -> int:
        """Bytes of a chunk."""
        return sum(-(-int(np.prod((CHUNK, *s))) * np.dtype(k).itemsize // 64) * 64 for s, k in FIELDS.values())


LETTER_CLASS = 1 + len(SHAPES) + len(emoji.CHARACTERS)
CLASSES = LETTER_CLASS + len(slots.ALPHABET)
"""What a patch may show: nothing, a shape, an emoji, a letter."""


def put(out: dict[str, np.ndarray], at: int, sample: samples.Sample, lexicon: dict[str, int]) -> None:
    """Write a sample, but for its tokens, into row ``at``."""
    out["image"][at] = np.asarray(sample.image)
    out["form"][at] = sample.form(lexicon)
    out["things"][at], out["letters"][at], out["word"][at] = 0, 0, 0
    for i, t in enumerate(sample.things[:THINGS]):
        label = 1 + t.shape if t.emoji < 0 else 1 + len(SHAPES) + t.emoji
        out["things"][at, i] = t.x, t.y, t.r, label, t.colour
    if sample.letters is not None:
        out["word"][at] = sample.letters.half_height, sample.letters.angle
        for i, (box, letter) in enumerate(zip(sample.letters.boxes, sample.word, strict=True)):
            out["letters"][at, i] = *box, LETTER_CLASS + slots.ALPHABET.index(letter)
    out["kind"][at] = samples.KINDS.index(sample.kind)


def fill(arrays: Arrays, rng: Random, kit: Kit, tokens: Tokens, shares: Sequence[float]) -> None:
    """Draw a chunk to train with."""
    at = 0
    while at < CHUNK:
        sample = samples.make(rng, "train", kit, shares=shares)
        row = tokens.row(sample.question, sample.answer, rng, spelled=sample.spelled)
        if row is None:
            continue
        arrays.of["ids"][at], arrays.of["span"][at] = row[0], row[1:]
        put(arrays.of, at, sample, kit.lexicon)
        at += 1


def start(
    folder: Path, *, workers: int, seed: int, known: str, shares: Sequence[float] = samples.SHARES
) -> Iterator[dict[str, np.ndarray]]:
    """Chunks without end. Forks at once: call it before anything touches the GPU."""
    size = Arrays.size()
    memory = mmap.mmap(-1, size * workers * _SLOTS)
    ready_r, ready_w = os.pipe()
    free: list[int] = []
    for worker in range(workers):
        free_r, free_w = os.pipe()
        os.write(free_w, bytes(range(_SLOTS)))
        if os.fork() == 0:
            try:
                os.close(ready_r)
                os.close(free_w)
                _work(memory, folder, worker, free_r, ready_w, seed * 1000 + worker, known, shares)
            finally:
                os._exit(0)
        os.close(free_r)
        free.append(free_w)
    os.close(ready_w)
    return _chunks(memory, ready_r, free, size)


def _chunks(memory: mmap.mmap, ready: int, free: list[int], size: int) -> Iterator[dict[str, np.ndarray]]:
    while True:
        message = os.read(ready, 2)
        if len(message) < 2:
            raise RuntimeError("the workers are gone")
        worker, slot = message
        arrays = Arrays.over(memory, size * (worker * _SLOTS + slot))
        yield arrays.of
        os.write(free[worker], bytes([slot]))


def _work(
    memory: mmap.mmap,
    folder: Path,
    worker: int,
    free: int,
    ready: int,
    seed: int,
    known: str,
    shares: Sequence[float],
) -> None:
    kit = Kit.open(folder, "train", known=known)
    tokens = Tokens(folder / "tokenizer.json", slots.TOKENS)
    rng = Random(seed)
    while True:
        slot = os.read(free, 1)
        if not slot:
            return
        fill(Arrays.over(memory, Arrays.size() * (worker * _SLOTS + slot[0])), rng, kit, tokens, shares)
        os.write(ready, bytes([worker, slot[0]]))
