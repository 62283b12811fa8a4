"""Compiled grammars are kept by content, bounded, and no answer moves another's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from sidecar.engine import grammar
from sidecar.engine.grammar import GrammarError, Grammars
from tests.support.grammars import EOS, vocabulary

HEAD = '%llguidance {"no_forcing": true}\nstart: '
WORDS = vocabulary()


def test_what_was_compiled_is_kept_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "KEPT", 3)
    found = Grammars(lambda: WORDS.tokens, sorted(WORDS.special), [EOS])
    first = found.lark(HEAD + '"ab"')
    first.accept(ord("a"))
    second = found.lark(HEAD + '"ab"')
    for state, allowed in ((first, "b"), (second, "a")):
        mask = state.mask(WORDS.size)
        assert mask is not None
        assert [chr(i) for i in mask.nonzero()[0]] == [allowed]
    for letter in "cdefg":
        found.lark(f'{HEAD}"{letter}"')
    assert len(found._compiled) == 3
    with pytest.raises(GrammarError):
        found.lark(HEAD + "nope")
    assert len(found._compiled) == 3


def test_answers_of_one_grammar_go_their_own_ways_at_once() -> None:
    found = Grammars(lambda: WORDS.tokens, sorted(WORDS.special), [EOS])

    def walk(text: str) -> bool:
        state = found.lark(HEAD + "/[ab]{40}/")
        for byte in text.encode():
            mask = state.mask(WORDS.size)
            assert mask is not None
            assert mask[byte]
            state.accept(byte)
        return state.accepting

    texts = [format(i * 0x9E3779B97F % (1 << 40), "040b").replace("0", "a").replace("1", "b") for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(walk, texts))
