"""Stops, thoughts, loops: what of an answer is shown, when, and how it is counted."""

from __future__ import annotations

import itertools
import random

import pytest

from sidecar.text.answer import Answer, MarkupReader
from sidecar.text.detokenizer import Detokenizer
from sidecar.text.repeats import LENGTH, RepeatWatch
from sidecar.text.stops import StopMatcher
from sidecar.text.thinking import THINK, ReasoningSplitter, ThinkingMarkers, can_be_off, markers_of, opens_thought
from tests.support.grammars import pieces, vocabulary

WORDS = vocabulary()


def _answer(*stops: str, thinking: ThinkingMarkers | None = None, inside: bool = False) -> Answer:
    reader = MarkupReader(ReasoningSplitter(thinking, inside=inside), None)
    return Answer(Detokenizer(WORDS), reader, stops=stops)


@pytest.mark.parametrize(
    ("stops", "text", "shown", "hit"),
    [
        (["五"], "一二三四五六", "一二三四", "五"),
        (["\n4"], "1,2\n3,4\n4,5", "1,2\n3,4", "\n4"),
        (["abc", "b"], "xabcd", "xa", "b"),  # which ends the text first
        (["bc", "abc"], "xabc", "x", "abc"),
        (["aab"], "aaaab", "aa", "aab"),
        (["zz"], "one z", "one z", None),
        ([], "all", "all", None),
    ],
)
def test_a_stop_string_is_never_shown(stops: list[str], text: str, shown: str, hit: str | None) -> None:
    for seed in range(20):
        matcher = StopMatcher(stops)
        out = ""
        for piece in pieces(text, random.Random(seed)):
            out += matcher.feed(piece)
            assert shown.startswith(out)
        if matcher.hit is None:
            out += matcher.finish()
        assert (out, matcher.hit) == (shown, hit)
        assert matcher.shown == len(shown)


def test_tokens_behind_a_stop_are_neither_counted_nor_shown() -> None:
    answer = _answer("lo w")
    shown, after = [], 0
    for i, token in enumerate(b"hello world"):
        delta = answer.token(token, i)
        shown += delta.tokens
        if answer.stopped:
            after = i
            break
    assert after == 6  # with the token that completes it
    shown += answer.finish().tokens
    assert answer.content == "hel"
    assert shown == [0, 1, 2]
    assert answer.tokens == 3
    assert answer.finish_reason("length") == "stop"


def test_a_stop_that_cuts_the_last_token_is_a_stop_not_the_limit() -> None:
    answer = _answer("d")
    for i, token in enumerate(b"and"):
        answer.token(token, i)
    answer.finish()
    assert (answer.content, answer.finish_reason("length"), answer.tokens) == ("an", "stop", 2)


def test_tokens_come_with_the_first_of_their_text() -> None:
    answer = _answer("xyz")
    came = [len(answer.token(token, i).tokens) for i, token in enumerate(b"axyb")]
    assert came == [1, 0, 0, 3]
    assert answer.tokens == 4
    assert answer.finish_reason("stop") == "stop"


def test_bytes_of_one_character_belong_to_the_text_they_make() -> None:
    answer = _answer("世")
    for i, token in enumerate("a界世".encode()):
        answer.token(token, i)
    assert answer.stopped
    assert answer.content == "a界"
    assert answer.tokens == 4


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("markers", [THINK, ThinkingMarkers("<|channel>thought", "<channel|>")])
def test_a_thought_is_split_off_wherever_the_pieces_end(markers: ThinkingMarkers, inside: bool) -> None:
    text = ("" if inside else markers.start) + "\nI see.\n\nA < b.\n" + markers.end + "\n\nYes.\n"
    for seed in range(20):
        splitter = ReasoningSplitter(markers, inside=inside)
        thought = said = ""
        for piece in pieces(text, random.Random(seed)):
            a, b = splitter.feed(piece)
            thought, said = thought + a, said + b
        a, b = splitter.finish()
        assert (thought + a, said + b) == ("I see.\n\nA < b.", "Yes.\n")


def test_text_without_a_thought_is_content() -> None:
    splitter = ReasoningSplitter(THINK)
    assert [*map(splitter.feed, ["<th", "e end> <think>"])] == [("", ""), ("", "<the end> <think>")]


@pytest.mark.parametrize(
    ("template", "start"),
    [
        ("{{ '<think>\\n' }}", "<think>"),
        ("{% if enable_thinking %}", "<think>"),
        ("[THINK]", "[THINK]"),
        ("{{ '<|channel>thought\\n<channel|>' }}", "<|channel>thought"),
        ("<|im_start|>", None),
    ],
)
def test_a_template_shows_its_thoughts_markers(template: str, start: str | None) -> None:
    found = markers_of(template)
    assert (found.start if found else None) == start
    assert can_be_off(template) == ("enable_thinking" in template)


def test_a_prompt_may_have_opened_the_thought() -> None:
    assert opens_thought("<|im_start|>assistant\n<think>\n", THINK)
    assert not opens_thought("<think>\n\n</think>\n\n", THINK)
    assert not opens_thought("<think>", None)


def _watched(tokens: list[int]) -> RepeatWatch:
    watch = RepeatWatch()
    for token in tokens:
        watch.add(token)
    return watch


@pytest.mark.parametrize("period", [1, 2, 7, 40, 100, 256])
def test_a_loop_is_noticed(period: int) -> None:
    draw = random.Random(period)
    stretch = [draw.randrange(10**5) for _ in range(period)]
    before = [draw.randrange(10**5) for _ in range(33)]
    watch = _watched(before + stretch * (max(LENGTH // period, 10) + 20))
    assert watch.looping
    assert period % watch.period == 0


def test_what_only_looks_like_a_loop_is_left_alone() -> None:
    verses = [t for verse in range(60) for t in [*range(100, 112), verse]]
    assert not _watched(verses).looping
    assert not _watched([7] * (LENGTH - 20) + list(range(500))).looping  # a long line, then it goes on
    assert not _watched(list(range(200)) * 5).looping
    matrix = list(itertools.chain.from_iterable([[48, 32] * 16 + [10, row] for row in range(16)]))
    assert not _watched(matrix).looping


def test_a_loop_ends_the_answer_as_a_limit_does() -> None:
    answer = Answer(Detokenizer(WORDS), repeats=RepeatWatch())
    count = next(i for i, _ in enumerate(itertools.repeat(0)) if answer.token(b"ab"[i % 2]) and answer.stopped)
    assert LENGTH - 1 <= count < LENGTH + 32
    assert answer.finish_reason("stop") == "length"


def test_an_answer_with_scores_goes_on_whole_wherever_the_engine_died() -> None:
    """The next engine is given the tokens that were told: their texts and entries come once each, wherever it ends."""
    text = "xabbbcd \u6d77 b\U0001f600bb end"
    tokens = list(text.encode())

    def run(received: list[int], count: int) -> tuple[list[int], str, list[int]]:
        answer, told, shown, entries = _answer("bz", "d q"), list[int](), "", list[int]()
        for token in received:
            answer.token(token)
        for at in range(len(received), count):
            some, delta = answer.told([tokens[at]], answer.token(tokens[at], at), entries=True)
            told, shown, entries = told + some, shown + delta.content, entries + delta.tokens
        if count == len(tokens):
            some, delta = answer.told([], answer.finish(), entries=False)
            told, shown, entries = told + some, shown + delta.content, entries + delta.tokens
        return told, shown, entries

    assert run([], len(tokens)) == (tokens, text, list(range(len(tokens))))
    kept = 0
    for died in range(len(tokens)):
        first = run([], died)
        kept += len(first[0]) < died
        second = run(first[0], len(tokens))
        assert first[1] + second[1] == text
        assert first[2] + second[2] == list(range(len(tokens)))
    assert kept, "texts were held back"
