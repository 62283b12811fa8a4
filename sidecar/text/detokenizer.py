"""Tokens to text, one at a time: every complete character goes out with the token that completes it.

A ``Vocabulary`` knows the bytes of each token; a ``Detokenizer`` joins them through an incremental UTF-8 decoder. No
script needs a space for its text to come out, a character of several tokens comes with the last of them, and a token
costs the same at the end of a long answer as at its beginning. The same bytes are what grammars are matched against.

Two rules of ``tokenizer.decode`` need the whole text, and are decided here:

- ``clean_up_tokenization_spaces`` (" ." becomes ".") is never applied: it would take back what was streamed, and it
  changes code and tables.
- Decoders of the SentencePiece kind strip the space in front of the first word. A chat's answer begins a text, and
  loses it as in ``decode``; a completion continues its prompt, and keeps it.

Bytes that are not UTF-8 become U+FFFD, as ``decode`` writes them; a ByteFallback decoder would replace the good
characters of the same run of byte tokens too, which can't be known before the run ends, so they stay.
"""

from __future__ import annotations

import codecs
import json
import re
from functools import cached_property
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_START = "\u2581"


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of GPT-2's byte-level alphabet stands for.

    The 188 printable characters of Latin-1 stand for themselves; the other bytes, in order, for U+0100 onwards.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    other = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(other)}


_ALPHABET = _byte_alphabet()


class Vocabulary:
    """The bytes of each token of one tokenizer. ``special``: ids of control tokens, which no text may be read as."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.size = len(tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", None) or {}
        self.added: dict[int, str] = {int(i): str(getattr(t, "content", t)) for i, t in added.items()}
        self.special = frozenset(int(i) for i, t in added.items() if getattr(t, "special", False)) | frozenset(
            int(i) for i in getattr(tokenizer, "all_special_ids", ())
        )
        self._known: dict[int, bytes] = {}
        decoders = _decoders(tokenizer)
        self._byte_level = "ByteLevel" in decoders
        self._pieces = not decoders or bool({"ByteFallback", "Metaspace", "Replace"} & decoders.keys())
        #: Whether ``decode`` strips a space at the very beginning.
        self.strips_first_space = "Strip" in decoders or (
            "Metaspace" in decoders and decoders["Metaspace"].get("prepend_scheme", "always") != "never"
        )

    @cached_property
    def tokens(self) -> list[bytes]:
        """The bytes of every token, by id. Takes a moment where there are many; ``bytes_of`` doesn't."""
        names = self._tokenizer.convert_ids_to_tokens(list(range(self.size)))
        return [self._bytes(i, name) for i, name in enumerate(names)]

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of one token; none for an id outside of the vocabulary (a model's logits are padded)."""
        known = self._known.get(token)
        if known is None:
            name = self._tokenizer.convert_ids_to_tokens([token])[0] if 0 <= token < self.size else None
            known = self._known[token] = self._bytes(token, name)
        return known

    @cached_property
    def control(self) -> tuple[dict[str, int], re.Pattern[str]]:
        """The control tokens by their text, and what finds them in a text, the longest first."""
        by_text = {self.added[i]: i for i in sorted(self.special) if self.added.get(i)}
        return by_text, re.compile("|".join(map(re.escape, sorted(by_text, key=len, reverse=True))) or r"(?!)")

    def _bytes(self, token: int, name: str | None) -> bytes:
        if token in self.added:
            text = self.added[token]
            if self._pieces and token not in self.special and not text.strip(_WORD_START):
                text = " " * len(text)  # Gemma lists its runs of spaces among the added tokens, too
            return text.encode("utf-8", "replace")
        if name is None:
            return b""
        if self._byte_level:
            if all(c in _ALPHABET for c in name):
                return bytes(_ALPHABET[c] for c in name)
            return name.encode("utf-8", "replace")
        if self._pieces:
            if byte := _BYTE_TOKEN.fullmatch(name):
                return bytes([int(byte[1], 16)])
            return name.replace(_WORD_START, " ").encode("utf-8", "replace")
        return str(self._tokenizer.decode([token])).encode("utf-8", "replace")


def _decoders(tokenizer: Any) -> dict[str, dict[str, Any]]:
    """Return the parts of a fast tokenizer's decoder by their type; {} for one that has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return {}
    document = json.loads(backend.decoder.__getstate__())
    return {part["type"]: part for part in document.get("decoders", [document])}


class Symbols:
    """Control tokens that an answer's markup uses, each as one character that no text can contain.

    A control token and the same letters written by the model are different things: a model that explains what
    ``[TOOL_CALLS]`` means calls nothing. UTF-8 has no lone surrogates, so a decoder never makes one: each control
    token that a marker names becomes such a character, and markers are looked for with those characters in them.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._texts = vocabulary.added
        self._by_text, self._pattern = vocabulary.control
        self.used: dict[int, str] = {}

    def parts(self, marker: str) -> list[str | int]:
        """Return a marker's text and control tokens, in order."""
        out: list[str | int] = []
        at = 0
        for found in self._pattern.finditer(marker):
            out += [marker[at : found.start()], self._by_text[found[0]]]
            at = found.end()
        return [p for p in [*out, marker[at:]] if p != ""]

    def encode(self, marker: str) -> str:
        """Return a marker as it is looked for in an answer's text; its control tokens are symbols from now on."""
        return "".join(p if isinstance(p, str) else self._symbol(p) for p in self.parts(marker))

    def _symbol(self, token: int) -> str:
        return self.used.setdefault(token, chr(0xD800 + len(self.used)))

    def plain(self, text: str) -> str:
        """Return a text with the symbols in it spelled out, as ``decode`` would."""
        if text.isascii() or not self.used:
            return text
        return text.translate({ord(symbol): self._texts[token] for token, symbol in self.used.items()})


class Detokenizer:
    """Turns one answer's tokens into text. ``continues``: the text goes on where a prompt's text ended."""

    def __init__(self, vocabulary: Vocabulary, *, symbols: Symbols | None = None, continues: bool = False) -> None:
        self._vocabulary = vocabulary
        self._symbols = symbols.used if symbols is not None else {}
        self._strip = vocabulary.strips_first_space and not continues
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._decode = self._utf8.decode

    @property
    def pending(self) -> bool:
        """Whether bytes wait for the rest of their character."""
        return bool(self._utf8.getstate()[0])

    def add(self, token: int) -> str:
        """Return the characters that a token completes."""
        symbol = self._symbols.get(token)
        if symbol is not None:
            return self._begun(self._decode(b"", True) + symbol)
        return self._begun(self._decode(self._vocabulary.bytes_of(token)))

    def finish(self) -> str:
        """Return what is left of a character that was never completed."""
        return self._decode(b"", True)

    def _begun(self, text: str) -> str:
        if text and self._strip:
            self._strip = False
            return text.removeprefix(" ")
        return text
