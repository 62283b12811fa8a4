"""A thought's limit: written by a drawn model, read by the client's side."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidecar.text.answer import MarkupReader
from sidecar.text.answer_grammar import Shape, answer_grammar
from sidecar.text.detokenizer import Detokenizer, Symbols, Vocabulary
from sidecar.text.harmony import FINAL, THOUGHT, THOUGHT_END
from sidecar.text.images import scaled
from sidecar.text.lark import Lark
from sidecar.text.schemas import arguments_schema
from sidecar.text.thinking import ReasoningSplitter, ThinkingMarkers
from sidecar.text.thought_budget import BudgetedThought
from sidecar.text.tool_calls import Markup
from tests.support.grammars import ByteTokenizer, constraint, vocabulary

CONTROL = ("<think>", "</think>")
WORDS = vocabulary(*CONTROL)
PLAIN = vocabulary()
TOKENS = ByteTokenizer(CONTROL)


def budget(words: Vocabulary, tokens: int, *, inside: bool, document: str = "") -> BudgetedThought:
    """The limit of a thought."""
    found = ThinkingMarkers("<think>", "</think>")
    shape = Shape(thinking=found, inside=inside, document=document)
    inner = constraint(words, answer_grammar(Lark(Symbols(words)), shape)) if document else None
    codes = TOKENS if words is WORDS else ByteTokenizer()
    start, end = tuple(codes.encode(found.start)), tuple(codes.encode(found.end))
    return BudgetedThought(inner, start=start, end=end, budget=tokens, inside=inside, words=words)


def written(made: BudgetedThought, words: Vocabulary, draw: random.Random, opening: list[int], count: int) -> list[int]:
    """Tokens of a model that opens its thought so and then says anything."""
    out: list[int] = []
    while len(out) < count and not made.finished:
        mask = made.mask(words.size)
        free = [int(i) for i in np.flatnonzero(mask)] if mask is not None else list(range(32, 127))
        token = opening[len(out)] if len(out) < len(opening) else draw.choice(free)
        made.accept(token)
        out.append(token)
    return out


@settings(deadline=None)
@given(limit=st.integers(0, 12), seed=st.integers(0, 999), inside=st.booleans(), marked=st.booleans())
def test_a_thought_ends_where_its_budget_does(limit: int, seed: int, inside: bool, marked: bool) -> None:
    words = WORDS if marked else PLAIN
    made = budget(words, limit, inside=inside)
    opening = [] if inside else (TOKENS if marked else ByteTokenizer()).encode("<think>")
    out = written(made, words, random.Random(seed), opening, 40)
    end = (TOKENS if marked else ByteTokenizer()).encode("</think>")
    at = next(i for i in range(len(out)) if out[i : i + len(end)] == end)
    # What the model wrote last may be how the end begins.
    assert len(opening) + limit - len(end) < at <= len(opening) + limit


@settings(deadline=None)
@given(limit=st.integers(0, 12), seed=st.integers(0, 999))
def test_the_grammar_goes_on_behind_a_cut_thought(limit: int, seed: int) -> None:
    made = budget(WORDS, limit, inside=True, document='"yes" | "no"')
    out = written(made, WORDS, random.Random(seed), [], 60)
    symbols = Symbols(WORDS)
    reader = MarkupReader(
        ReasoningSplitter(ThinkingMarkers(symbols.encode("<think>"), symbols.encode("</think>")), inside=True), None
    )
    detokenizer = Detokenizer(WORDS, symbols=symbols)
    delta = reader.feed("".join(detokenizer.add(t) for t in out if t != 256))
    assert delta.content in ("yes", "no")
    assert out.index(TOKENS.encode("</think>")[0]) <= limit + 3  # a character is written to its end


def test_a_thought_ends_behind_a_whole_character() -> None:
    made = budget(WORDS, 2, inside=True)
    for token in "a€".encode()[:3]:
        made.accept(token)
    assert made.mask(WORDS.size) is None
    made.accept("€".encode()[2])
    mask = made.mask(WORDS.size)
    assert mask is not None
    assert np.flatnonzero(mask).tolist() == TOKENS.encode("</think>")


def test_an_answer_without_a_thought_is_left_alone() -> None:
    made = budget(WORDS, 0, inside=False)
    for token in b"<thin words and words":
        assert made.mask(WORDS.size) is None
        made.accept(token)


CHANNELS = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "<|return|>", "<|constrain|>")
CHANNEL_WORDS, CHANNEL_TOKENS = vocabulary(*CHANNELS), ByteTokenizer(CHANNELS)


def channels(tokens: int, shape: Shape) -> BudgetedThought:
    """The limit of a thought in gpt-oss's channels."""
    grammar = answer_grammar(Lark(Symbols(CHANNEL_WORDS)), shape)
    return BudgetedThought(
        None if shape.free else constraint(CHANNEL_WORDS, grammar),
        start=tuple(CHANNEL_TOKENS.encode(THOUGHT)),
        end=tuple(CHANNEL_TOKENS.encode(FINAL)),
        budget=tokens,
        inside=False,
        closing=tuple(CHANNEL_TOKENS.encode(THOUGHT_END)),
        words=CHANNEL_WORDS,
    )


def test_channels_end_in_the_answers_channel() -> None:
    opening, end = CHANNEL_TOKENS.encode(THOUGHT), CHANNEL_TOKENS.encode(FINAL)
    out = written(channels(3, Shape()), CHANNEL_WORDS, random.Random(3), opening, 60)
    assert out[len(opening) + 3 :][: len(end)] == end


def test_a_second_thought_has_what_the_first_left() -> None:
    first = f"{THOUGHT}ab{THOUGHT_END}"
    opening, end = CHANNEL_TOKENS.encode(f"{first}{THOUGHT}"), CHANNEL_TOKENS.encode(FINAL)
    spent = 2 + len(CHANNEL_TOKENS.encode(THOUGHT_END)) - 1
    out = written(channels(spent + 4, Shape()), CHANNEL_WORDS, random.Random(3), opening, 80)
    assert out[len(opening) + 4 :][: len(end)] == end


def test_a_call_that_must_come_is_not_led_to_the_answers_channel() -> None:
    markup = Markup(name="harmony", begin="<|channel|>commentary to=", head="functions.", tail="<|call|>")
    schemas = {"f": arguments_schema({"type": "object", "additionalProperties": False}, strict=True).schema}
    made = channels(2, Shape(markup=markup, schemas=schemas, forced=True))
    opening = CHANNEL_TOKENS.encode(f"{THOUGHT}ab")
    out = written(made, CHANNEL_WORDS, random.Random(3), opening, 200)
    cut = CHANNEL_TOKENS.encode(f"{THOUGHT_END}<|channel|>")
    at = len(opening)
    assert out[at : at + len(cut)] == cut
    assert made.finished
    assert bytes(t for t in out[at:] if t < 256).startswith(b"assistantcommentary to=functions.f json{")


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 10**7), st.integers(0, 10**7))
def test_pictures_keep_their_ratio_within_their_pixels(width: int, height: int, least: int, most: int) -> None:
    assume(not most or least <= most)
    size = scaled((width, height), least, most, 2048)
    assert min(size) >= 1
    if most:
        assert size[0] * size[1] <= most or 1 in size
    if width * height <= (most or 10**9) and width * height >= least:
        assert size == (width, height)
    if min(size) > 50:
        assert size[0] / size[1] == pytest.approx(width / height, rel=0.05)
