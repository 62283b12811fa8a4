"""Grammars that bind a row's answer, through llguidance.

Compiled off the engine's thread; the engine asks for a mask and reports the token chosen.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


KEPT = 32
"""Compiled grammars of one vocabulary; one of thirty tools has about a megabyte."""


class GrammarError(ValueError):
    """A grammar llguidance can't use; the message says which part."""


class _Words:
    """What llguidance wants to know of a vocabulary."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int], eos: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = eos

    def __call__(self, text: bytes | str) -> list[int]:
        """Return the tokens of a text: asked for once, to see whether there is a tokenizer; nothing is forced here."""
        return []


class Grammars:
    """Compiles grammars for one vocabulary. Building its trie takes up to seconds; it is done once.

    ``tokens``: the bytes of each, by id, asked for at the first grammar; ``special``: ids no text may be read as.
    """

    def __init__(self, tokens: Callable[[], Sequence[bytes]], special: Sequence[int], eos: Sequence[int]) -> None:
        self._tokens = tokens
        self._special = sorted(special)
        self._eos = list(eos)
        self._lock = threading.Lock()
        self._trie: Any = None
        self._compiled: OrderedDict[bytes, Any] = OrderedDict()

    def _llg(self) -> Any:
        with self._lock:
            if self._trie is None:
                from llguidance import LLTokenizer

                tokens = list(self._tokens())
                eos = self._eos or [len(tokens) - 1]
                words: Any = _Words(tokens, sorted({*self._special, *eos}), eos[0])
                self._trie = LLTokenizer(words, eos_token=eos)
            return self._trie

    def lark(self, grammar: str) -> Constraint:
        """Return a constraint to a Lark grammar (llguidance's syntax). Raises GrammarError.

        An application asks with the same tools and schemas again and again: the last ``KEPT`` are not compiled anew.
        """
        from llguidance import LLMatcher

        trie = self._llg()
        key = hashlib.sha256(grammar.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            matcher = self._compiled.get(key)
            if matcher is not None:
                self._compiled.move_to_end(key)
                return Constraint(matcher.deep_copy(), trie.vocab_size)
        matcher = LLMatcher(trie, LLMatcher.grammar_from_lark(grammar))
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        with self._lock:
            self._compiled[key] = matcher.deep_copy()  # never moved on
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return Constraint(matcher, trie.vocab_size)


class Constraint:
    """The state of one row's grammar."""

    def __init__(self, matcher: Any, vocab: int) -> None:
        self._matcher = matcher
        self._vocab = vocab
        import numpy as np

        self._bits = np.full((1, (vocab + 31) // 32), -1, dtype=np.int32)

    @property
    def finished(self) -> bool:
        """Whether nothing more may follow."""
        return bool(self._matcher.is_stopped())

    @property
    def accepting(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    def accept(self, token: int) -> None:
        """Move on by the token chosen. Raises GrammarError when the grammar forbids it."""
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise GrammarError(self._matcher.get_error())

    def mask(self, width: int) -> NDArray[np.bool_] | None:
        """Return which of ``width`` tokens may come next [width]; None: any."""
        import llguidance.numpy
        import numpy as np

        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits, 0)
        allowed = np.unpackbits(self._bits.view(np.uint8)[0], bitorder="little")[: self._vocab].astype(np.bool_)
        if len(allowed) < width:
            allowed = np.concatenate([allowed, np.zeros(width - len(allowed), dtype=np.bool_)])
        return allowed[:width]

    def copy(self) -> Constraint:
        """Return an independent constraint in the same state."""
        return Constraint(self._matcher.deep_copy(), self._vocab)
