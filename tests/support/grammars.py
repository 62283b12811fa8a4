"""A vocabulary of single bytes and some control tokens, and a writer that lets a grammar decide what may come."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from sidecar.engine.grammar import Constraint, Grammars
from sidecar.text.detokenizer import Symbols, Vocabulary

EOS = 256


class ByteTokenizer:
    """As much of a tokenizer as a Vocabulary asks for: a token a byte, <eos>, and ``control`` tokens.

    Its byte tokens are written as SentencePiece's byte fallback.
    """

    class _Added:
        def __init__(self, content: str) -> None:
            self.content = content
            self.special = True

    def __init__(self, control: Sequence[str] = ()) -> None:
        self.control = ("<eos>", *control)
        self.added_tokens_decoder = {EOS + i: self._Added(text) for i, text in enumerate(self.control)}
        self.all_special_ids = list(self.added_tokens_decoder)

    def __len__(self) -> int:
        return 256 + len(self.control)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens' names."""
        return [f"<0x{i:02X}>" if i < 256 else self.control[i - 256] for i in ids]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text in which control tokens are spelled out."""
        pattern = "|".join(map(re.escape, self.control))
        out: list[int] = []
        at = 0
        for found in re.finditer(pattern, text):
            out += [*text[at : found.start()].encode(), 256 + self.control.index(found[0])]
            at = found.end()
        return [*out, *text[at:].encode()]


def vocabulary(*control: str) -> Vocabulary:
    """Return a vocabulary of bytes and control tokens."""
    return Vocabulary(ByteTokenizer(control))


def constraint(words: Vocabulary, grammar: str) -> Constraint:
    """Return the constraint of a grammar over a vocabulary of bytes."""
    return Grammars(lambda: words.tokens, sorted(words.special), [EOS]).lark(grammar)


def takes(words: Vocabulary, grammar: str, text: str) -> bool:
    """Return whether a grammar takes a whole text."""
    state = constraint(words, grammar)
    tokenizer = ByteTokenizer(tuple(words.added[i] for i in sorted(words.added))[1:])
    for token in tokenizer.encode(text):
        mask = state.mask(words.size)
        assert mask is not None
        if not mask[token]:
            return False
        state.accept(token)
    return state.accepting


def written(
    words: Vocabulary,
    grammar: str | Constraint,
    *,
    seed: int,
    limit: int = 2000,
    likes: str = '"}],.0123456789</>)',
    closers: Sequence[str] = (),
) -> tuple[list[int], bool]:
    """Return tokens that a grammar allows, chosen at random, and whether it let the answer end.

    ``likes``: characters that are chosen three times in four where they may come: they bring things to an end;
    ``closers``: texts that are begun now and then, and written out where they may be.
    """
    draw = random.Random(seed)
    state = constraint(words, grammar) if isinstance(grammar, str) else grammar
    out: list[int] = []
    liked = np.zeros(words.size, dtype=bool)
    liked[list(likes.encode())] = True
    queue: list[int] = []
    while len(out) < limit:
        if state.finished:
            return out, True
        mask = state.mask(words.size)
        assert mask is not None
        if state.accepting and draw.random() < 0.3:
            return out, True
        mask = mask.copy()
        mask[EOS] = False
        # Letters rather than the other thousands of characters, so that texts are read easily when a test fails.
        plain = mask & np.array([i >= 256 or 32 <= i < 127 for i in range(words.size)])
        pool = plain if plain.any() else mask
        if (pool & liked).any() and draw.random() < 0.75:
            pool = pool & liked
        allowed = np.flatnonzero(pool)
        if not len(allowed):
            return out, state.accepting
        if not queue and closers and draw.random() < 0.1:
            queue = list(draw.choice(list(closers)).encode())
        if queue and mask[queue[0]]:
            token = queue.pop(0)
        else:
            queue = []
            token = int(draw.choice(allowed.tolist()))
        state.accept(token)
        out.append(token)
    return out, False


def symbols(words: Vocabulary) -> Symbols:
    """Return the symbols of a vocabulary's control tokens."""
    return Symbols(words)


def spelled(words: Vocabulary, tokens: Sequence[int]) -> str:
    """Return tokens as text, control tokens spelled out."""
    return b"".join(words.tokens[t] for t in tokens).decode("utf-8", "replace")


def pieces(text: str, draw: random.Random) -> list[str]:
    """Return a text in pieces of 1 to 7 characters."""
    out: list[Any] = []
    while text:
        n = draw.randint(1, 7)
        out.append(text[:n])
        text = text[n:]
    return out
