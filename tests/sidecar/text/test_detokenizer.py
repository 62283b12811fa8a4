"""Tokens become text at once, in any script, and the same text as ``decode`` makes of them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.text.detokenizer import Detokenizer, Symbols, Vocabulary
from tests.support.tokenizers import KINDS, TEXTS, byte_level, sentence_pieces, tokenizer


def _streamed(words: Any, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(Vocabulary(words))
    return [*(detokenizer.add(i) for i in ids), detokenizer.finish()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEXTS)
def test_the_pieces_are_what_decode_makes_of_all(starter_dir: Path, kind: str, name: str) -> None:
    if name == "marker" and kind in ("llama2", "gemma"):
        pytest.skip("decode turns the marker's own U+2581 into a space there")
    words = tokenizer(kind, starter_dir)
    ids = words.encode(TEXTS[name], add_special_tokens=False)
    assert "".join(_streamed(words, ids)) == words.decode(ids, skip_special_tokens=False)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60), kind=st.sampled_from(KINDS))
def test_any_text_streams_to_what_decode_makes_of_it(starter_dir: Path, text: str, kind: str) -> None:
    words = tokenizer(kind, starter_dir)
    ids = words.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False)
    assert "".join(_streamed(words, ids)) == words.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", ["chinese", "japanese", "thai", "arabic", "family", "combining"])
def test_a_character_goes_out_with_the_token_that_completes_it(starter_dir: Path, name: str) -> None:
    known = tokenizer("starter", starter_dir)
    ids = known.encode(TEXTS[name], add_special_tokens=False)
    words = Vocabulary(known)
    detokenizer = Detokenizer(words)
    raw, out = b"", ""
    for token in ids:
        raw += words.bytes_of(token)
        out += detokenizer.add(token)
        assert out == raw.decode("utf-8", "ignore")  # nothing whole is held back, nothing broken is shown
    assert out == TEXTS[name]


def test_broken_bytes_are_replaced_and_what_follows_is_whole() -> None:
    known = byte_level()
    ids = known.encode("龘", add_special_tokens=False)
    assert len(ids) > 1
    cut = [*ids[:-1], *known.encode("ok", add_special_tokens=False)]
    text = "".join(_streamed(known, cut))
    assert text.endswith("ok")
    assert set(text[:-2]) == {"\ufffd"}
    assert "".join(_streamed(known, ids[:-1])) == "\ufffd"


def test_a_completion_keeps_the_space_that_a_chat_loses() -> None:
    known = sentence_pieces()
    ids = known.encode("and a", add_special_tokens=False)
    words = Vocabulary(known)
    for continues, text in ((False, "and a"), (True, " and a")):
        deknown = Detokenizer(words, continues=continues)
        assert "".join(map(deknown.add, ids)) == text


def test_ids_outside_of_the_vocabulary_are_no_text() -> None:
    assert "".join(_streamed(byte_level(), [10**6, 10**6])) == ""


def test_added_tokens_are_their_own_letters_and_runs_of_spaces_are_spaces() -> None:
    """Of both alphabets: in GPT-2's "é" is a byte and "Ġ" a space, and pieces write a space as U+2581."""
    from tokenizers import AddedToken

    known = sentence_pieces(False)
    own = type(known)(tokenizer_object=type(known.backend_tokenizer).from_str(known.backend_tokenizer.to_str()))
    own.add_tokens([AddedToken(t, normalized=False) for t in ("▁▁▁", "<é>")])
    ids = [own.convert_tokens_to_ids(t) for t in ("▁▁▁", "<é>", "a", "▁▁▁")]
    assert "".join(_streamed(own, ids)) == own.decode(ids) == "   <é>a   "
    latin = type(known)(
        tokenizer_object=type(known.backend_tokenizer).from_str(byte_level().backend_tokenizer.to_str())
    )
    words = ["é", "<ÿ>", "Ġx", "naïve 龘"]
    latin.add_tokens([AddedToken(t, normalized=False) for t in words])
    assert "".join(_streamed(latin, [latin.convert_tokens_to_ids(t) for t in words])) == "".join(words)


_SCRIPTS = st.text(
    st.one_of(
        st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF),
        st.characters(min_codepoint=0x3040, max_codepoint=0x30FF),
        st.characters(min_codepoint=0x0E01, max_codepoint=0x0E3A),
        st.characters(min_codepoint=0x0621, max_codepoint=0x064A),
        st.characters(min_codepoint=0x0300, max_codepoint=0x036F),
        st.sampled_from("👨👩👧👦🏽🚀🇨🇭\u200d\ufe0f e"),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(text=_SCRIPTS, kind=st.sampled_from(["starter", "deepseek", "gemma"]))
def test_any_script_streams_with_no_more_held_back_than_the_character_being_written(
    starter_dir: Path, text: str, kind: str
) -> None:
    known = tokenizer(kind, starter_dir)
    ids = known.encode(text, add_special_tokens=False)
    words = Vocabulary(known)
    detokenizer = Detokenizer(words)
    raw, out = b"", ""
    for token in ids:
        raw += words.bytes_of(token)
        out += detokenizer.add(token)
        whole = raw.decode("utf-8", "ignore")
        assert out == whole
        assert len(raw) - len(whole.encode()) <= 3  # no more than a character that is not whole
    if "<unk>" not in known.decode(ids):
        assert out == text


def test_a_control_token_is_not_its_letters() -> None:
    known = byte_level()
    symbols = Symbols(Vocabulary(known))
    marker = symbols.encode("[TOOL_CALLS]")
    assert len(marker) == 1
    control = known.convert_tokens_to_ids("[TOOL_CALLS]")
    letters = [known.convert_tokens_to_ids(c) for c in "[TOOL_CALLS]"]
    deknown = Detokenizer(Vocabulary(known), symbols=symbols)
    text = "".join(map(deknown.add, [control, *letters]))
    assert text == marker + "[TOOL_CALLS]"
    assert symbols.plain(text) == "[TOOL_CALLS]" * 2
