"""Grammars that bind a row's answer: JSON schemas and tool calls, through llguidance.

Compiled off the engine's thread; the engine asks for a mask and reports the token chosen.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ANY_OBJECT = {"type": "object"}


class GrammarError(ValueError):
    """A schema llguidance can't enforce; the message says which part."""


class Grammars:
    """Compiles grammars for one tokenizer. Building its token trie takes up to seconds; done once."""

    def __init__(self, tokenizer: Any, eos: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._eos = list(eos)
        self._lock = threading.Lock()
        self._trie: Any = None

    def _llg(self) -> Any:
        with self._lock:
            if self._trie is None:
                import llguidance.hf

                self._trie = llguidance.hf.from_tokenizer(self._tokenizer, eos_token=self._eos or None)
            return self._trie

    def json_schema(self, schema: dict[str, Any] | None, *, start_after: int | None = None) -> Constraint:
        """A constraint to documents of ``schema`` (None: any object). Raises GrammarError."""
        return self._constraint(json_grammar(_ANY_OBJECT if schema is None else schema), start_after)

    def lark(self, grammar: str, *, start_after: int | None = None) -> Constraint:
        """A constraint to a Lark grammar. Raises GrammarError."""
        import llguidance

        try:
            return self._constraint(llguidance.grammar_from("lark", grammar), start_after)
        except ValueError as exc:
            raise GrammarError(str(exc)) from exc

    def _constraint(self, grammar: str, start_after: int | None) -> Constraint:
        from llguidance import LLMatcher

        trie = self._llg()
        matcher = LLMatcher(trie, grammar)
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        return Constraint(matcher, trie.vocab_size, start_after)


def json_grammar(schema: dict[str, Any]) -> str:
    """llguidance's grammar of a JSON schema, with one space after commas and colons. Raises GrammarError."""
    import llguidance

    try:
        return str(llguidance.JsonCompiler(separators=(", ", ": "), whitespace_pattern="").compile(json.dumps(schema)))
    except (ValueError, TypeError) as exc:
        raise GrammarError(str(exc)) from exc


class Constraint:
    """The state of one row's grammar. ``start_after``: bind only once this token has come (a thought's end)."""

    def __init__(self, matcher: Any, vocab: int, start_after: int | None) -> None:
        self._matcher = matcher
        self._vocab = vocab
        self._start_after = start_after
        import numpy as np

        self._bits = np.full((1, (vocab + 31) // 32), -1, dtype=np.int32)

    @property
    def finished(self) -> bool:
        """Whether nothing more may follow."""
        return self._start_after is None and bool(self._matcher.is_stopped())

    def accept(self, token: int) -> None:
        """Move on by the token chosen. Raises GrammarError when the grammar forbids it."""
        if self._start_after is not None:
            if token == self._start_after:
                self._start_after = None
            return
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise GrammarError(self._matcher.get_error())

    def mask(self, width: int) -> NDArray[np.bool_] | None:
        """Which of ``width`` tokens may come next [width]; None: any."""
        if self._start_after is not None:
            return None
        import llguidance.numpy
        import numpy as np

        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits, 0)
        allowed = np.unpackbits(self._bits.view(np.uint8)[0], bitorder="little")[: self._vocab].astype(np.bool_)
        if len(allowed) < width:
            allowed = np.concatenate([allowed, np.zeros(width - len(allowed), dtype=np.bool_)])
        return allowed[:width]

    def copy(self) -> Constraint:
        """An independent constraint in the same state."""
        return Constraint(self._matcher.deep_copy(), self._vocab, self._start_after)
