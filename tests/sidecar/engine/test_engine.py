"""The engine with real models in this process: company changes nothing, faults stay with their request."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.backend import caches, heap
from sidecar.engine import memory
from sidecar.engine.actions import Action, Decode, View
from sidecar.engine.admission import STEP
from sidecar.engine.lanes import Lane
from sidecar.engine.messages import Tier
from sidecar.engine.rows import Done, Event, GenerationRequest, Prompt, Token
from sidecar.errors import LoadError
from sidecar.text.prompt import build_prompt
from tests.support.benches import Bench, Client, noise
from tests.support.servers import wait_for


@pytest.fixture(scope="module")
def text(starter_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(starter_dir, tmp_path_factory.mktemp("engine"))
    yield bench
    bench.engine.stop()


@pytest.fixture(scope="module")
def eyes(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(model_dir / "tiny-vl", tmp_path_factory.mktemp("engine"))
    yield bench
    bench.engine.stop()


QUESTIONS = ["Name three colours.", "Who was Newton?", "Write a haiku.", "What is two plus two?", "Describe the sea."]


def test_in_company_as_alone(text: Bench) -> None:
    params: list[dict[str, Any]] = [
        {},
        {"temperature": 1.2, "seed": 1, "top_p": 0.9},
        {"temperature": 0.8, "seed": 2, "top_k": 40},
        {"temperature": 1.0, "seed": 3, "min_p": 0.05, "repetition_penalty": 1.3},
        {"temperature": 1.0, "seed": 4, "frequency_penalty": 1.0, "logit_bias": ((260, 2.0),)},
    ]
    alone = []
    for question, p in zip(QUESTIONS, params, strict=True):
        text.forget()
        alone.append(text.ask(question, **p).tokens)
    text.forget()
    clients = [text.send(q, tier=Tier(i % 2), **p) for i, (q, p) in enumerate(zip(QUESTIONS, params, strict=True))]
    for client, tokens in zip(clients, alone, strict=True):
        assert client.ended.wait(120)
        assert client.tokens == tokens
    assert len({tuple(t) for t in alone}) == 5


def test_pictures_and_text_in_company_as_alone(eyes: Bench) -> None:
    prompts = [eyes.prompt("what is in this image?", noise(i)) for i in range(3)] + [eyes.prompt(QUESTIONS[0])] * 2
    prompts[4] = eyes.prompt("count to ten")
    alone = eyes.alone(prompts)
    clients = [eyes.send(p, tier=Tier(i % 2)) for i, p in enumerate(prompts)]
    for client, tokens in zip(clients, alone, strict=True):
        assert client.ended.wait(120)
        assert client.tokens == tokens
    assert len({tuple(t) for t in alone[:3]}) > 1


def beside(bench: Bench, prompts: Sequence[Prompt], tokens: int) -> list[Client]:
    """The first as a chat, the others as batch work; the chat comes once the others' rows run."""
    jobs: list[Client] = []
    chat: list[Client] = []

    def watched(take: Callable[[Sequence[Event]], None], events: Sequence[Event]) -> None:
        take(events)
        if not chat and len(jobs) == len(prompts) - 1 and all(len(c.tokens) > 1 for c in jobs):
            chat.append(bench.send(prompts[0], max_tokens=tokens))

    with bench.held():
        for prompt in prompts[1:]:
            job = bench.send(prompt, tier=Tier.BATCH, max_tokens=tokens)
            job.request.sink = functools.partial(watched, job.take)
            jobs.append(job)
    assert all(job.ended.wait(120) for job in jobs)
    assert chat[0].ended.wait(120)
    return [*chat, *jobs]


@pytest.mark.parametrize("kind", ["text", "eyes"])
def test_batch_rows_move_in_and_out_of_a_chats_pass_exactly(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench: Bench = request.getfixturevalue(kind)
    if kind == "eyes":
        prompts, tokens = [bench.prompt("what is in this image?", noise(i)) for i in range(4)], 40
    else:
        prompts, tokens = [bench.prompt(q) for q in QUESTIONS[:4]], 14
    expected = bench.alone(prompts, max_tokens=tokens)
    decide = bench.core.policy.decide
    seen: list[int] = []

    def restless(view: View) -> Action:
        action: Action = decide(view)
        if not (isinstance(action, Decode) and view.rows[Tier.INTERACTIVE]):
            return action
        seen.append(min(view.rows[Tier.BATCH], len(seen) * 2 % 5 % 4))
        return Decode(Tier.INTERACTIVE, seen[-1])

    monkeypatch.setattr(bench.core.policy, "decide", restless)
    clients = beside(bench, prompts, tokens)
    assert [c.tokens for c in clients] == expected
    assert {0, 1, 2, 3} == set(seen)


def test_rows_that_cannot_be_joined_go_on_apart(eyes: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [eyes.prompt(text) for text in ("count to ten", "name a colour", "what is it")]
    expected = eyes.alone(prompts, max_tokens=60)
    extend = caches.extend

    def broken(cache: list[Any], other: list[Any]) -> list[Any]:
        extend(cache, other)  # a cache that breaks half-way, as one of a new kind may
        raise RuntimeError("planted")

    monkeypatch.setattr(caches, "extend", broken)
    clients = beside(eyes, prompts, 60)
    try:
        assert [c.tokens for c in clients] == expected
        assert not any(c.failure for c in clients)
        assert "planted" in eyes.loaded.can.batch
        assert not eyes.core.batches.can_share
    finally:
        eyes.loaded.can.batch = ""


class Planted:
    """A grammar that breaks after a few tokens."""

    finished = False

    def __init__(self, after: int) -> None:
        self._left = after

    def accept(self, token: int) -> None:
        self._left -= 1

    def mask(self, width: int) -> None:
        if self._left <= 0:
            raise RuntimeError("planted")


def test_a_breaking_grammar_ends_its_row_alone(text: Bench) -> None:
    expected = text.ask(QUESTIONS[0], max_tokens=24).tokens
    good = text.send(QUESTIONS[0], max_tokens=24)
    bad = text.send(QUESTIONS[1], constraint=Planted(3))
    assert bad.ended.wait(60)
    assert good.ended.wait(60)
    assert bad.failure is not None
    assert "planted" in bad.failure.message
    assert good.tokens == expected


def test_a_processor_error_in_one_prompt_ends_it_alone(eyes: Bench) -> None:
    good_prompt = eyes.prompt("what is in this image?", noise(1))
    expected = eyes.ask(good_prompt).tokens
    inputs = dict(good_prompt.inputs or {})
    inputs["pixel_values"] = inputs["pixel_values"][:3]
    bad_prompt = Prompt(tokens=good_prompt.tokens, inputs=inputs, media="f" * 64)
    good, bad = eyes.send(good_prompt), eyes.send(bad_prompt)
    assert bad.ended.wait(60)
    assert good.ended.wait(60)
    assert bad.failure is not None
    assert good.tokens == expected


def test_a_row_of_nans_ends_alone(eyes: Bench) -> None:
    import mlx.core as mx

    good_prompt = eyes.prompt("what is in this image?", noise(2))
    expected = eyes.ask(good_prompt).tokens
    inputs = dict(good_prompt.inputs or {})
    inputs["pixel_values"] = mx.full(inputs["pixel_values"].shape, float("nan"))
    mx.eval(inputs["pixel_values"])  # lazy arrays belong to the thread that made them
    good, bad = eyes.send(good_prompt), eyes.send(Prompt(tokens=good_prompt.tokens, inputs=inputs, media="e" * 64))
    assert bad.ended.wait(60)
    assert good.ended.wait(60)
    assert bad.failure is not None
    assert "NaN" in bad.failure.message
    assert good.tokens == expected


def test_a_broken_batch_is_rebuilt_and_its_rows_resume(text: Bench) -> None:
    expected = [text.ask(q, max_tokens=32).tokens for q in QUESTIONS[:3]]
    text.forget()
    clients = [text.send(q, max_tokens=32) for q in QUESTIONS[:3]]
    wait_for(lambda: all(len(c.tokens) > 4 for c in clients))

    def plant() -> int:
        (lane,) = text.core.batches.shared._lanes

        def broken(**_: Any) -> Any:
            raise RuntimeError("planted")

        lane.step = broken
        return len(lane.rows)

    try:
        assert text.on_engine(plant) == 3
        for client, tokens in zip(clients, expected, strict=True):
            assert client.ended.wait(120)
            assert client.failure is None
            assert client.tokens == tokens
        assert "planted" in text.loaded.can.batch
    finally:
        text.loaded.can.batch = ""


def test_cancel_frees_the_row_and_the_others_go_on(text: Bench) -> None:
    expected = text.ask(QUESTIONS[0], max_tokens=40).tokens
    stays, goes = text.send(QUESTIONS[0], max_tokens=40), text.send(QUESTIONS[1], max_tokens=400)
    wait_for(lambda: len(goes.tokens) > 2)
    text.engine.cancel(text.path, goes.request.id)
    wait_for(lambda: text.on_engine(lambda: len(text.core.batches)) <= 1)
    assert stays.ended.wait(60)
    assert stays.tokens == expected
    wait_for(lambda: not text.core.busy)


BURST = ["count to ten", "name a colour", "a red house", "what is it", "the lazy dog"]


def burst(bench: Bench, prepare: Callable[[list[Client]], None] = lambda _: None) -> tuple[list[Client], list[int]]:
    """Requests that come at once, and the sizes of the groups their prompts were processed in."""
    sizes: list[int] = []
    begin = bench.core.stage.begin_group

    def watched(requests: list[GenerationRequest]) -> None:
        sizes.append(len(requests))
        begin(requests)

    bench.core.stage.begin_group = watched
    try:
        bench.forget()
        with bench.held():
            clients = [
                bench.send(q, tier=Tier.BATCH, temperature=0.9 * (i % 2), seed=i, top_logprobs=i)
                for i, q in enumerate(BURST)
            ]
            prepare(clients)
        for client in clients:
            assert client.ended.wait(60) or client.request.id not in bench.core.waiting
        return clients, sizes
    finally:
        bench.core.stage.begin_group = begin


def one_by_one(bench: Bench) -> list[list[int]]:
    out = []
    for i, question in enumerate(BURST):
        bench.forget()
        out.append(bench.ask(question, temperature=0.9 * (i % 2), seed=i, top_logprobs=i).tokens)
    return out


def test_prompts_that_come_at_once_are_processed_together_and_as_alone(eyes: Bench) -> None:
    alone = one_by_one(eyes)
    clients, sizes = burst(eyes)
    assert max(sizes) >= 3
    assert [c.tokens for c in clients] == alone


def test_one_of_a_group_is_cancelled(eyes: Bench) -> None:
    alone = one_by_one(eyes)
    step, gone = eyes.core.stage.step, threading.Event()

    def cancel_first(prefill: Any, tokens: int) -> Any:
        if len(prefill.requests) > 2 and not gone.is_set():
            gone.set()
            numbers.append(prefill.requests[0].id)
            eyes.core.cancel(prefill.requests[0].id)
        return step(prefill, tokens)

    numbers: list[int] = []
    eyes.core.stage.step = cancel_first
    try:
        bench_clients, _ = burst(eyes, lambda clients: clients[0].ended.set())
    finally:
        eyes.core.stage.step = step
    wait_for(lambda: not eyes.core.busy)
    assert numbers
    for client, tokens in zip(bench_clients, alone, strict=True):
        assert client.tokens == ([] if client.request.id in numbers else tokens)


def test_a_group_that_fails_is_tried_one_by_one(eyes: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from sidecar.engine.prefill import Prefill

    alone = one_by_one(eyes)
    finish = Prefill.finish

    def broken(self: Prefill) -> Any:
        if len(self.requests) > 1:
            raise RuntimeError("planted")
        return finish(self)

    monkeypatch.setattr(Prefill, "finish", broken)
    clients, sizes = burst(eyes)
    assert max(sizes) >= 3
    assert [c.tokens for c in clients] == alone
    assert not any(c.failure for c in clients)
    assert not eyes.core.recovery.ungrouped
    assert "planted" in eyes.loaded.can.group
    eyes.loaded.can.group = ""


def test_one_of_a_group_whose_client_breaks_ends_alone(eyes: Bench) -> None:
    alone = one_by_one(eyes)

    def breaks(clients: list[Client]) -> None:
        take = clients[1].take

        def sink(events: Sequence[Event]) -> None:
            if any(isinstance(e, Token) for e in events):
                raise RuntimeError("planted")
            take(events)

        clients[1].request.sink = sink

    clients, sizes = burst(eyes, breaks)
    assert max(sizes) >= 3
    assert clients[1].failure is not None
    assert "planted" in clients[1].failure.message
    assert [c.tokens for c in clients if c is not clients[1]] == [t for i, t in enumerate(alone) if i != 1]


def test_cancel_while_an_image_is_encoded(eyes: Bench) -> None:
    clients = [eyes.send(eyes.prompt("what is it?", noise(i), noise(i + 1)), tier=Tier.BATCH) for i in range(4)]
    for client in clients:
        eyes.engine.cancel(eyes.path, client.request.id)
    wait_for(lambda: not eyes.core.busy)
    assert eyes.ask("count to ten").failure is None


def test_ten_turns_compute_only_what_is_new(text: Bench) -> None:
    text.forget()
    messages: list[dict[str, Any]] = []
    before = 0
    for turn in range(10):
        messages.append({"role": "user", "content": f"Tell me fact number {turn} about the sea."})
        prompt = build_prompt(text.loaded, messages, ())
        client = text.ask(prompt, max_tokens=12)
        if turn:
            assert client.cached >= before
        before = len(prompt.tokens)
        messages.append({"role": "assistant", "content": text.loaded.tokenizer.decode(client.tokens)})


def test_a_kept_prefix_gives_the_same_tokens(text: Bench, eyes: Bench) -> None:
    for bench, prompt in (
        (text, text.prompt("Explain photosynthesis to a child, please, in simple words.")),
        (eyes, eyes.prompt("what is in this image? name three colours, please.", noise(3))),
    ):
        bench.forget()
        cold = bench.ask(prompt)
        warm = bench.ask(prompt)
        assert cold.cached == 0
        assert warm.cached == len(prompt.tokens) - 1
        assert warm.tokens == cold.tokens


def test_the_choices_of_a_prompt_share_one_prefill(text: Bench, eyes: Bench) -> None:
    for bench, prompt in (
        (text, text.prompt("Tell me, please, what a lighthouse keeper does on a winter's day, hour by hour.")),
        (
            eyes,
            eyes.prompt("what is in this image? name three colours of it, please, and say which is darkest.", noise(3)),
        ),
    ):
        seeds: list[dict[str, Any]] = [{"temperature": 0.9, "seed": i} for i in range(3)]
        alone = []
        for seed in seeds:
            bench.forget()
            alone.append(bench.ask(prompt, **seed))
        bench.forget()
        with bench.held():
            together = [bench.send(prompt, **seed) for seed in seeds]
        assert all(c.ended.wait(60) for c in together)
        assert [c.tokens for c in together] == [c.tokens for c in alone]
        assert sorted(c.cached for c in together) == [0, len(prompt.tokens) - 1, len(prompt.tokens) - 1]
        bench.forget()
        with bench.held():  # the first is cancelled before its prompt is processed: the others still come
            together = [bench.send(prompt, **seed) for seed in seeds]
            bench.engine.cancel(bench.path, together[0].request.id)
        assert all(c.ended.wait(60) for c in together[1:])
        assert [c.tokens for c in together[1:]] == [c.tokens for c in alone[1:]]


def test_the_same_text_under_another_image_is_not_the_same_prefix(eyes: Bench) -> None:
    eyes.forget()
    first, second = (eyes.prompt("what is in this image?", noise(i)) for i in (1, 4))
    assert first.tokens == second.tokens
    a = eyes.ask(first)
    b = eyes.ask(second)
    assert b.cached == 0
    eyes.forget()
    assert eyes.ask(second).tokens == b.tokens
    assert eyes.ask(first).tokens == a.tokens


def test_a_quantized_cache_answers_as_well_in_company(starter_dir: Path, text: Bench, tmp_path: Path) -> None:
    bench = Bench(starter_dir, tmp_path, kv_bits=8)
    try:
        question = "What is the capital of France?"
        plain, quantized = text.ask(question, max_tokens=8), bench.ask(question, max_tokens=8)
        assert quantized.tokens == plain.tokens  # 8 bit changes nothing in so plain an answer
        alone = [bench.ask(q, max_tokens=12).tokens for q in QUESTIONS[:3]]
        together = [bench.send(q, max_tokens=12, tier=Tier(i % 2)) for i, q in enumerate(QUESTIONS[:3])]
        assert all(c.ended.wait(60) for c in together)
        assert [c.tokens for c in together] == alone
        assert len(bench.core.prefixes) == 0, "kept prefixes and a quantized cache don't combine"
    finally:
        bench.engine.stop()


def test_heads_that_cannot_be_quantized_are_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="start without --kv-bits"):
        Bench(model_dir / "tiny-vl", tmp_path, kv_bits=8)


@pytest.mark.parametrize("kind", ["text", "eyes"])
def test_guessed_tokens_change_no_answer(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    plain: Bench = request.getfixturevalue(kind)
    bench = Bench(plain.path, tmp_path, speculative_tokens=4)
    try:
        if kind == "eyes":
            prompts = [bench.prompt("what is in this image?", noise(i)) for i in range(3)]
        else:
            prompts = [bench.prompt("Repeat after me: I like red cars. I like red cars.")]
        for prompt in prompts:
            for options in ({}, {"temperature": 0.7, "seed": 5, "top_logprobs": 2}, {"repetition_penalty": 1.2}):
                ask: dict[str, Any] = {"max_tokens": 12, **options}
                expected, client = plain.ask(prompt, **ask), bench.ask(prompt, **ask)
                assert client.tokens == expected.tokens
                pairs = zip(client.events, expected.events, strict=True)
                scores = [(a.logprob, b.logprob) for a, b in pairs if isinstance(a, Token) and isinstance(b, Token)]
                assert [a for a, _ in scores] == pytest.approx([b for _, b in scores], abs=1e-3)
                assert bench.on_engine(lambda: len(bench.core.batches)) == 0
        counted = {f.name: f.samples[0].value for f in bench.meter.registry.collect() if "spec_decode" in f.name}
        drafted, accepted = (counted[f"mlx_sidecar_spec_decode_{k}_tokens"] for k in ("draft", "accepted"))
        assert 0 < accepted <= drafted
        alone = bench.alone(prompts, max_tokens=8)
        together = [bench.send(p, max_tokens=8, tier=Tier(i % 2)) for i, p in enumerate(prompts)]
        assert all(c.ended.wait(60) for c in together)
        assert [c.tokens for c in together] == alone
    finally:
        bench.engine.stop()


def test_caches_that_cannot_take_tokens_back_are_refused(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_vlm.models import cache

    monkeypatch.setattr(cache.BatchKVCache, "is_trimmable", lambda _: False)
    with pytest.raises(LoadError, match=r"BatchKVCache.*start without --speculative-tokens"):
        Bench(model_dir / "tiny-vl", tmp_path, speculative_tokens=4)


def test_batch_work_cannot_flush_a_chats_prefix(starter_dir: Path, tmp_path: Path) -> None:
    bench = Bench(starter_dir, tmp_path, prefix_cache_mb=12)
    try:
        chat = bench.prompt("Tell me a short story about a lighthouse keeper and his old dog, please.")
        bench.ask(chat, max_tokens=4)
        for i in range(8):
            bench.ask(bench.prompt(f"Tag number {i}: " + "alpha beta gamma delta " * 12), tier=Tier.BATCH, max_tokens=2)
        assert bench.core.prefixes.bytes <= 12 << 20
        assert bench.ask(chat, max_tokens=4).cached == len(chat.tokens) - 1
    finally:
        bench.engine.stop()


@contextlib.contextmanager
def memory_for(bench: Bench, tokens: int) -> Iterator[None]:
    """Let the machine have room for so many tokens of one model's rows, whatever else it has."""
    ledger = bench.core.room.ledger

    def free() -> int:
        return int(ledger.row(tokens) - sum(ledger.row(has) for _, has, _ in bench.core.batches.held))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "free", free)
        patch.setattr(ledger, "alone", free)
        yield


def test_what_does_not_fit_into_memory_waits_and_what_has_no_limit_fits(text: Bench) -> None:
    text.ask(QUESTIONS[0], max_tokens=2)
    text.forget()
    with memory_for(text, 450):
        clients = [text.send(QUESTIONS[1], max_tokens=40) for _ in range(2)]
        most = 0
        while not all(c.ended.is_set() for c in clients):
            most = max(most, len(text.core.batches))
            time.sleep(0.005)
        assert most == 1
        assert all(c.failure is None for c in clients)
    with memory_for(text, 900):  # a row of the whole context, 8,192 tokens, would not fit
        endless = [text.send(q, max_tokens=8000, tier=Tier.BATCH) for q in QUESTIONS[:2]]
        wait_for(lambda: all(len(c.tokens) > 2 for c in endless))
        for one in endless:
            text.engine.cancel(text.path, one.request.id)


def test_what_pictures_take_is_measured_and_one_without_room_waits_for_the_others(eyes: Bench) -> None:
    ledger = eyes.core.room.ledger
    prompt = eyes.prompt("what is in this image?", noise(7))
    expected = eyes.ask(prompt, max_tokens=4).tokens
    values = prompt.numbers.pictures
    took = ledger.work(prompt.numbers, [])
    assert 4 * values < took < 100_000 * values, "at least its pixels as floats"
    eyes.forget()
    eyes.on_engine(eyes.core.stage.forget)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "free", lambda: int(took + ledger.row(2000)) if not eyes.core.batches else int(took) - 1)
        job = eyes.send(QUESTIONS[0], max_tokens=40, tier=Tier.BATCH, logit_bias=((2, -100.0),))
        wait_for(lambda: len(job.tokens) > 2)
        picture = eyes.send(prompt, max_tokens=4, tier=Tier.BATCH)
        assert picture.ended.wait(120)
        assert job.ended.is_set(), "it began when the job was over"
        assert picture.tokens == expected


def test_a_chat_takes_the_room_of_batch_rows_which_come_back_exactly(text: Bench) -> None:
    params: dict[str, Any] = {"temperature": 0.9, "seed": 5, "max_tokens": 60, "logit_bias": ((2, -100.0),)}
    prompts = [text.prompt(q) for q in QUESTIONS[:2]]
    expected = text.alone(prompts, **params)
    made_way: list[list[int]] = []
    real = text.core.room.make_way

    def watched(request: Any, running: Any) -> list[int]:
        made_way.append(real(request, running))
        return made_way[-1]

    with memory_for(text, 450), pytest.MonkeyPatch.context() as patch:
        patch.setattr(text.core.room, "make_way", watched)
        jobs = [text.send(p, tier=Tier.BATCH, **params) for p in prompts[1:]]
        wait_for(lambda: all(len(c.tokens) > 5 for c in jobs))
        chat = text.ask(prompts[0], **params)
        assert any(made_way), f"the rows of a job were set aside: {made_way}, {[len(c.tokens) for c in jobs]}"
        assert all(c.ended.wait(120) for c in jobs)
    assert [c.tokens for c in (chat, *jobs)] == expected


def test_rows_that_outgrow_memory_are_set_aside_and_come_back_exactly(text: Bench) -> None:
    params: dict[str, Any] = {"temperature": 0.9, "seed": 6, "max_tokens": 120, "logit_bias": ((2, -100.0),)}
    prompts = [text.prompt(q) for q in QUESTIONS[:2]]
    expected = text.alone(prompts, **params)
    room = [4000]
    with memory_for(text, 4000), pytest.MonkeyPatch.context() as patch:
        free = text.core.room.ledger.free
        patch.setattr(text.core.room.ledger, "free", lambda: free() - int(text.core.room.ledger.row(4000 - room[0])))
        clients = [text.send(p, **params) for p in prompts]
        wait_for(lambda: all(len(c.tokens) > 5 for c in clients))
        room[0] = 60  # another program takes the rest
        wait_for(lambda: len(text.core.waiting) == 1)
        assert len(text.core.batches) == 1, "the last row stays"
        room[0] = 4000
        assert all(c.ended.wait(120) for c in clients)
    assert [c.tokens for c in clients] == expected
    assert all(c.failure is None for c in clients)


def test_what_the_allocator_keeps_is_given_back_before_anybody_is_refused(text: Bench) -> None:
    """Nothing runs and 3 MiB seem free, the rest is kept for the next pass: a chat of four tokens was a 503."""
    expected = text.alone([QUESTIONS[0]], max_tokens=6)
    ledger, given_back = text.core.room.ledger, threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "give_back", given_back.set)
        for name in ("free", "alone"):
            patch.setattr(ledger, name, lambda: 1 << 33 if given_back.is_set() else 1)
        client = text.ask(QUESTIONS[0], max_tokens=6)
    assert (client.failure, client.tokens) == (None, expected[0])
    assert given_back.is_set()


def test_a_prompt_in_small_pieces_for_want_of_memory_is_answered_alike(text: Bench) -> None:
    prompt = " ".join([QUESTIONS[0]] * 12)
    expected = text.alone([prompt], max_tokens=6)
    sizes: list[int] = []
    real = text.core.stage.step

    def watched(prefill: Any, tokens: int) -> Any:
        sizes.append(tokens)
        return real(prefill, tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text.core.room, "piece", lambda tokens, *_: min(tokens, 32))
        patch.setattr(text.core.stage, "step", watched)
        assert text.ask(prompt, max_tokens=6).tokens == expected[0]
    assert max(sizes) <= 32
    assert len(sizes) >= 3


def test_a_prompt_that_can_never_fit_is_refused_with_the_numbers(text: Bench) -> None:
    text.ask(QUESTIONS[0], max_tokens=2)
    with memory_for(text, 100), pytest.MonkeyPatch.context() as patch:
        text.forget()
        patch.setattr(text.core.room, "_most", 1 << 20)
        failure = text.ask(QUESTIONS[1]).failure
        assert failure is not None
        assert failure.status == 400
        assert "MiB" in failure.message
        patch.setattr(text.core.room, "_most", 1 << 40)
        failure = text.ask(QUESTIONS[1]).failure
        assert failure is not None
        assert failure.status == 503
    assert text.ask(QUESTIONS[1]).failure is None


def test_a_batch_job_on_one_model_never_starves_a_chat_on_another(
    eyes: Bench, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models alike: while the chat runs, the job gets about its share of a tenth, and then it goes on."""
    other = tmp_path / "other"
    other.symlink_to(model_dir / "tiny-vl", target_is_directory=True)
    eyes.engine.load(other).result(120)
    try:
        job = eyes.send(QUESTIONS[0], max_tokens=300, tier=Tier.BATCH, logit_bias=_endless(eyes))
        wait_for(lambda: len(job.tokens) > 5)
        before = len(job.tokens)
        monkeypatch.setattr(eyes, "path", other)
        chat = eyes.ask(QUESTIONS[1], max_tokens=60, logit_bias=_endless(eyes))
        meanwhile = len(job.tokens) - before
        assert len(chat.tokens) == 60
        assert meanwhile < 30, "the chat goes first"
        assert job.ended.wait(120)
        assert len(job.tokens) == 300
    finally:
        eyes.engine.unload(other).result(60)


def _endless(bench: Bench) -> tuple[tuple[int, float], ...]:
    """Return the bias under which no answer ends by itself."""
    return tuple((int(token), -100.0) for token in bench.loaded.eos)


def test_embedding_beside_a_chat(text: Bench, model_dir: Path) -> None:
    text.engine.load(model_dir / "minilm").result(60)
    chat = text.send(QUESTIONS[2], max_tokens=60)
    vectors, tokens = text.engine.embed(model_dir / "minilm", ["a b c"] * 40, Tier.BATCH).result(60)
    assert len(vectors) == 40
    assert tokens == 40 * 5
    assert chat.ended.wait(60)
    assert chat.failure is None
    assert not text.deaths


def test_joined_and_grown_caches_answer_alike_a_few_layers_at_a_time(text: Bench) -> None:
    """As where caches are large: each layer is copied, and the old one given up, before the next."""
    prompts = [" ".join([QUESTIONS[0]] * 10), QUESTIONS[1]]
    expected = [text.alone([p], max_tokens=24)[0] for p in prompts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heap, "at_once", lambda: 1)
        patch.setattr(text.core.room, "piece", lambda tokens, *_: min(tokens, 32))
        text.forget()
        clients = [text.send(p, max_tokens=24) for p in prompts]
        for client in clients:
            client.ended.wait(60)
    assert [c.tokens for c in clients] == expected


def test_the_last_piece_of_a_prompt_computes_the_scores_of_its_last_token_alone(text: Bench) -> None:
    """Those of 2,048 tokens of Qwen3-VL are 620 MB, in nobody's sum."""
    prompt = " ".join([QUESTIONS[0]] * 40)
    vocabulary = text.loaded.config.get("vocab_size") or text.loaded.config["text_config"]["vocab_size"]
    passes: list[tuple[int, int]] = []
    text.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text.core.room, "learn_pass", lambda tokens, size: passes.append((tokens, size)))
        patch.setattr(text.core.room, "piece", lambda *_: 1000)
        assert text.ask(prompt, max_tokens=2).failure is None
    tokens, size = passes[-1]
    assert tokens > 150, "all of it in one piece"
    assert 0 < size < tokens * vocabulary * 4, "scores of all its tokens are more by themselves"


def test_rows_without_room_for_padding_go_apart_and_join_when_there_is_room(text: Bench) -> None:
    prompts = [" ".join([QUESTIONS[0]] * 10), QUESTIONS[1]]
    params: dict[str, Any] = {"max_tokens": 24, "temperature": 0.8, "seed": 3, "logit_bias": ((2, -100.0),)}
    expected = [text.alone([p], **params)[0] for p in prompts]
    room, lanes = [False], list[int]()
    real = text.core.batches.arrange

    def watched(*args: Any) -> Any:
        batch = real(*args)
        if len(batch) == 2:
            lanes.append(len(batch._lanes))
            room[0] = len(lanes) > 5
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text.core.room, "may_join", lambda *_: room[0])
        patch.setattr(text.core.batches, "arrange", watched)
        with text.held():
            clients = [text.send(p, **params) for p in prompts]
        for client in clients:
            assert client.ended.wait(60)
    assert [c.tokens for c in clients] == expected
    assert lanes[0] == 2
    assert lanes[-1] == 1, f"they joined: {lanes}"


def test_nothing_else_holds_the_caches_of_rows_that_join(text: Bench) -> None:
    """The prompts of a mixed pass did: the old cache of 35 MB was there beside the joined one, and 44 were left."""
    held: list[list[str]] = []
    join = Lane.join

    def watched(lane: Lane, other: Lane) -> None:
        gone = [weakref.ref(entry) for entry in other.cache]
        join(lane, other)
        held.append([repr(entry()) for entry in gone if entry() is not None])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lane, "join", watched)
        first = text.send(QUESTIONS[1], max_tokens=60, logit_bias=((2, -100.0),))
        wait_for(lambda: len(first.tokens) > 3)
        text.ask(" ".join([QUESTIONS[2]] * 6), max_tokens=4)
        assert first.ended.wait(60)
    assert held
    assert not any(held)


def test_a_row_that_fills_the_memory_ends_as_at_the_end_of_a_context(text: Bench) -> None:
    """Nobody is left who could be set aside for it: the next token would be the engine's end, twice, and then a 500."""
    prompt = " ".join([QUESTIONS[0]] * 40)
    with pytest.MonkeyPatch.context() as patch:
        row = text.send(prompt, max_tokens=300, logit_bias=((2, -100.0),))
        wait_for(lambda: len(row.tokens) > 1)
        for name in ("free", "alone"):
            patch.setattr(text.core.room.ledger, name, lambda: 0)
        assert row.ended.wait(120)
    assert row.failure is None
    assert row.events[-1] == Done("length")
    assert (len(row.request.prompt.tokens) + len(row.tokens) + 1) % STEP == 0, "just before its cache would grow"


def test_a_step_that_only_reads_what_was_in_flight_teaches_no_cost(
    eyes: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last token of a chat alone is there already: its step would say that a token costs next to nothing."""
    taught: list[str] = []
    passes: list[int] = []
    advance = Lane._advance

    def counted(lane: Lane) -> None:
        passes.append(len(lane.rows))
        advance(lane)

    monkeypatch.setattr(Lane, "_advance", counted)
    monkeypatch.setattr(eyes.core.policy.costs, "learn_unit", lambda kind, *_, **__: taught.append(kind))
    eyes.ask(eyes.prompt("count to ten"), max_tokens=8, ignore_eos=True)
    assert len(passes) == 7
    assert taught.count("decode") == 5, "the first of new rows is dear, the last computes nothing"
