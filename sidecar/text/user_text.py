"""A user's text is text: control markers in it are never control tokens, and never stand for pictures.

Templates paste messages between control tokens, and the tokenizer can't tell the one from the other: ``<|im_end|>`` in
a mail that is to be summarised would end the user's turn, ``<image>`` would ask the processor for a picture. So before
a template sees it, each such marker in a user's text is broken by a character that nobody uses (``<\ue000|im_end|>``);
the whole prompt is then rendered and tokenized as ever, by the processor too where there are pictures, and the tokens
of that character are taken out again. What is left are the tokens of the marker's letters.

Texts without markers, nearly all, pass untouched, and so do their tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sidecar.text.detokenizer import Vocabulary

_CANDIDATES = tuple(map(chr, (*range(0xE000, 0xE010), 0xF8FF, 0xF0000, 0x10FFFD)))
_CONTROL = re.compile(r"[<>\[\]|｜◁▷]")
_PLACEHOLDERS = (
    r"<\|?/?(?:image|img|video|audio)(?:[_ ]?\d+)?\|?>",
    r"\[IMG(?:_BREAK|_END)?\]",
    r"<image_soft_token>",
    r"<IMG_CONTEXT>",
)


class UserText:
    """Breaks and mends the markers of one vocabulary. ``sees``: placeholders of pictures are markers, too."""

    def __init__(self, vocabulary: Vocabulary, tokenizer: Any, *, sees: bool) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        special = [text for i, text in vocabulary.added.items() if i in vocabulary.special]
        others = [text for i, text in vocabulary.added.items() if i not in vocabulary.special and _CONTROL.search(text)]
        places = _PLACEHOLDERS if sees else ()
        self._special = _any_of(special, places)
        self._all = _any_of([*special, *others], places)
        self.mark, self._tokens = self._choose()

    def _choose(self) -> tuple[str, tuple[int, ...]]:
        """Return a character whose tokens are the same wherever it stands, and those tokens."""
        for mark in _CANDIDATES:
            tokens = self._alone(mark)
            if tokens and all(self._stands_alone(before, mark, after, tokens) for before, after in _AROUND):
                return mark, tokens
        return _CANDIDATES[0], ()  # it stays in the prompt, where it does little harm

    def _alone(self, mark: str) -> tuple[int, ...]:
        """Return the tokens of a character amid others; () when they can't be told from its neighbours'."""
        before = self._encode("<")
        whole = self._encode("<" + mark)
        return tuple(whole[len(before) :]) if whole[: len(before)] == before and len(whole) > len(before) else ()

    def _stands_alone(self, before: str, mark: str, after: str, tokens: tuple[int, ...]) -> bool:
        """Return whether a character's tokens have no part in those beside it."""
        whole = self._encode(before + mark + after)
        places = [i for i in range(len(whole)) if tuple(whole[i : i + len(tokens)]) == tokens]
        if len(places) != 1:
            return False
        rest = [*whole[: places[0]], *whole[places[0] + len(tokens) :]]
        text = b"".join(map(self._vocabulary.bytes_of, rest)).decode("utf-8", "replace")
        return text.strip() == before + after or self._unknown(before + after)

    def _unknown(self, text: str) -> bool:
        """Return whether the vocabulary has no letters for a text, so that it can't be compared."""
        return b"".join(map(self._vocabulary.bytes_of, self._encode(text))).decode("utf-8", "replace").strip() != text

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def broken(self, value: Any, *, own: bool = False) -> Any:
        """Return a text, or all texts in a JSON value, with the markers in them broken.

        ``own``: the text is the model's own, of an earlier turn; only control tokens are markers then, not the
        ``<think>`` that a template looks for.
        """
        if isinstance(value, str):
            return self._broken(value, self._special if own else self._all)
        if isinstance(value, dict):
            return {k: self.broken(v, own=own) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.broken(v, own=own) for v in value]
        return value

    def _broken(self, text: str, markers: re.Pattern[str]) -> str:
        for _ in range(8):  # a broken marker may have another one inside
            mended = markers.sub(lambda m: m[0][0] + self.mark + m[0][1:], text)
            if mended == text:
                break
            text = mended
        return text

    def kept(self, tokens: Sequence[int]) -> list[int]:
        """Return the positions of the tokens that are not the mark's, in order."""
        mark = self._tokens
        out: list[int] = []
        at = 0
        while at < len(tokens):
            if mark and tuple(tokens[at : at + len(mark)]) == mark:
                at += len(mark)
            else:
                out.append(at)
                at += 1
        return out


_AROUND = (("<", "|"), ("[", "I"), ("a", "b"), ("<", "/"))


def _any_of(texts: Sequence[str], patterns: Sequence[str]) -> re.Pattern[str]:
    known = sorted({t for t in texts if len(t) > 1 and not t.isspace()}, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, known), *patterns]) or r"(?!)")
