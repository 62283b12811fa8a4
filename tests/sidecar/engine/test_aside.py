"""Chats that arrive in the midst of a pass of batch work: let in between its layers, and every answer as alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sidecar.backend.passes import PromptBatch, decode, decoding_tokens, mixed
from sidecar.backend.positions import embed
from sidecar.engine import aside
from sidecar.engine.messages import Tier
from tests.support.benches import Bench, Client, noise

LONG = "the harbour was full of boats and nets and gulls and rope and tar, " * 3


@pytest.fixture(scope="module")
def bench(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(model_dir / "tiny-vl", tmp_path_factory.mktemp("aside"))
    yield bench
    bench.engine.stop()


class Arrivals:
    """In place of what takes in arrivals between two layers: something of its own arrives at drawn pauses."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, arrive: list[Any], seed: int) -> None:
        self._aside = bench.core._aside
        self._poll = self._aside._poll
        self._draw = random.Random(seed)
        self.arrive = arrive  # called at a pause each, in order
        monkeypatch.setattr(aside, "SLICE", 1e-9)  # a pause after each layer
        monkeypatch.setattr(self._aside, "_poll", self)

    def __call__(self) -> None:
        if self.arrive and self._aside.in_pass and self._draw.random() < 0.6:
            self.arrive.pop(0)()
        self._poll()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_chat_in_the_midst_of_a_pass_changes_no_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    jobs = [bench.prompt(t) for t in ("count to ten", LONG, "name a colour")] + [bench.prompt("describe", noise(seed))]
    chats = [bench.prompt("hello"), bench.prompt("what is in this image?", noise(9)), bench.prompt(f"{LONG} now what?")]
    wants: list[dict[str, Any]] = [{}, {"temperature": 1.1, "seed": seed}, {"repetition_penalty": 1.3}]
    expected = bench.alone(jobs, max_tokens=24)
    for prompt, want in zip(chats, wants, strict=True):
        bench.forget()
        expected.append(bench.ask(prompt, max_tokens=12, **want).tokens)
    bench.forget()
    sent: list[Client] = []
    before = bench.core.stage.disturbances
    Arrivals(
        bench,
        monkeypatch,
        [lambda p=p, w=w: sent.append(bench.send(p, max_tokens=12, **w)) for p, w in zip(chats, wants, strict=True)],
        seed,
    )
    with bench.held():
        clients = [bench.send(p, tier=Tier.BATCH, max_tokens=24) for p in jobs]
    assert all(client.ended.wait(60) for client in clients)
    assert len(sent) == 3
    assert all(client.ended.wait(60) for client in sent)
    assert [c.tokens for c in (*clients, *sent)] == expected
    assert bench.core.stage.disturbances - before >= 3, "chats were let in between layers"
    assert bench.core.policy.spent < 60


def test_who_leaves_in_the_midst_of_a_pass_is_taken_out_after_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [bench.prompt(t) for t in ("count to ten", LONG, "name a colour")]
    expected = bench.alone(jobs, max_tokens=30)
    clients: list[Client] = []
    passes: list[bool] = []

    def leave(number: int) -> None:
        passes.append(bench.core._aside.in_pass)
        bench.engine.cancel(bench.path, clients[number].request.id)

    arrivals = Arrivals(bench, monkeypatch, [], 4)
    with bench.held():
        clients += [bench.send(p, tier=Tier.BATCH, max_tokens=30) for p in jobs]
        arrivals.arrive += [lambda: leave(0), lambda: leave(2)]
    assert clients[1].ended.wait(60)
    assert passes == [True, True]
    assert clients[1].tokens == expected[1]
    assert all(c.tokens == e[: len(c.tokens)] for c, e in zip(clients, expected, strict=True))
    assert not any(c.failure for c in clients)
    assert bench.on_engine(lambda: not bench.core.busy)


def test_passes_inside_a_shared_pass_change_nothing_of_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that wants some tokens' scores alone, with others of other prompts and positions inside it."""
    model, layers = bench.loaded.model, bench.core._aside._layers
    language = model.language_model
    texts = [list(bench.prompt(t).tokens) for t in ("count to ten", LONG, "name a colour")]

    def begun(number: int) -> PromptBatch:
        return PromptBatch(model, [number], [texts[number]], [embed(model, texts[number])])

    def shared_pass() -> mx.array:
        first, second = begun(0), begun(1)
        _, state = first.finish(cut=True)
        row, piece = decoding_tokens(model, mx.array([3]), first.cache, state), second.piece(20)
        scores = mixed(language, [row, piece], [row, piece])
        mx.eval(scores, [entry.state for entry in second.cache])
        return scores

    def row_inside() -> mx.array:
        third = begun(2)
        _, state = third.finish(cut=True)
        scores = decode(language, mx.array([[5]]), third.cache, state)
        mx.eval(scores)
        return scores

    inside: list[mx.array] = []

    def both() -> tuple[mx.array, mx.array, mx.array]:
        alone, other = shared_pass(), row_inside()
        monkeypatch.setattr(layers, "_pause", lambda: inside.append(row_inside()))
        with layers.during(1000):
            left = shared_pass()
        return alone, left, other

    alone, left, other = bench.on_engine(both)
    assert alone.shape == left.shape
    assert np.array_equal(np.array(alone), np.array(left))
    assert inside
    assert all(np.array_equal(np.array(one), np.array(other)) for one in inside)


def test_what_a_model_remembers_of_a_pass_is_as_if_it_had_not_been_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions that another prompt leaves behind in the model are not taken for those of the pass that goes on."""
    model, layers = bench.loaded.model, bench.core._aside._layers
    language = model.language_model
    tokens = list(bench.prompt(LONG).tokens)

    def remembered() -> str:
        prompt = PromptBatch(model, [0], [tokens], [embed(model, tokens)])
        _, state = prompt.finish(cut=True)
        return repr(state.positions.kept)

    def overwrite() -> None:
        language._rope_deltas = mx.array([[99]])
        language._position_ids = mx.zeros((3, 1, 1), dtype=mx.int32)

    def both() -> tuple[str, str]:
        alone = remembered()
        monkeypatch.setattr(layers, "_pause", overwrite)
        with layers.during(1000):
            return alone, remembered()

    alone, left = bench.on_engine(both)
    assert "array" in alone
    assert left == alone
