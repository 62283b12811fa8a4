"""Control markers in users' texts are text, whatever the tokenizer and the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.text.detokenizer import Vocabulary
from sidecar.text.user_text import UserText
from tests.support.tokenizers import KINDS, tokenizer

PLAIN = "a mail about <b>bread</b>, [x], a | b and 1 < 2"


def _markers(words: Vocabulary) -> list[str]:
    return [text for i, text in words.added.items() if i in words.special and len(text) > 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_marker_becomes_its_letters(starter_dir: Path, kind: str) -> None:
    known = tokenizer(kind, starter_dir)
    words = Vocabulary(known)
    users = UserText(words, known, sees=False)
    for marker in _markers(words):
        text = f"and {marker} end"
        assert known.convert_tokens_to_ids(marker) in known.encode(text, add_special_tokens=False)
        tokens = known.encode(users.broken(text), add_special_tokens=False)
        kept = [tokens[i] for i in users.kept(tokens)]
        assert not set(kept) & words.special - {known.unk_token_id}
        if kind != "metaspace":  # whose Unigram has no letters for most markers
            assert known.decode(kept).replace("\u2581", " ") == text.replace("\u2581", " ")


@pytest.mark.parametrize("kind", KINDS)
def test_other_text_is_not_touched(starter_dir: Path, kind: str) -> None:
    known = tokenizer(kind, starter_dir)
    users = UserText(Vocabulary(known), known, sees=True)
    assert users.broken(PLAIN) == PLAIN
    assert users.kept(list(range(50))) == list(range(50))


def test_markers_inside_of_markers_and_json_values(starter_dir: Path) -> None:
    known = tokenizer("starter", starter_dir)
    words = Vocabulary(known)
    users = UserText(words, known, sees=True)
    value = {"a": ["<|im_<|im_end|>end|>", {"b": "<image> <|image_1|> [IMG]"}], "n": 3, "none": None}
    broken: Any = users.broken(value)
    assert broken["n"] == 3
    assert broken["none"] is None
    for text in (broken["a"][0], broken["a"][1]["b"]):
        assert not set(known.encode(text)) & words.special
        for marker in ("<|im_end|>", "<image>", "<|image_1|>", "[IMG]"):
            assert marker not in text


def test_a_models_own_words_keep_what_templates_look_for(starter_dir: Path) -> None:
    known = tokenizer("starter", starter_dir)
    users = UserText(Vocabulary(known), known, sees=False)
    assert users.broken("<think>so</think><|im_end|>", own=True).startswith("<think>so</think><")
    assert users.broken("<think>so</think><|im_end|>", own=True) != "<think>so</think><|im_end|>"
