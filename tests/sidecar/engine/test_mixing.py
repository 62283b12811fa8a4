"""Pieces of prompts in the pass of running rows: every answer is what it is alone, and a fault costs nobody his."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.backend import mixing
from sidecar.engine.actions import Action, Begin, Decode, View
from sidecar.engine.messages import Tier
from sidecar.engine.rows import Event, Prompt
from tests.support.benches import Bench, Client, noise

LONG = "the harbour was full of boats and nets and gulls and rope and tar, " * 3


@pytest.fixture(scope="module")
def bench(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("mixing")
    bench = Bench(model_dir / "tiny-vl", folder, unit_log=folder / "units.jsonl")
    yield bench
    bench.engine.stop()


class Mixing:
    """Decisions in which every prompt that can shares the rows' pass, in pieces of drawn sizes."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self._decide = bench.core.policy.decide
        self._draw = random.Random(seed)
        self.pieces: list[int] = []

    def __call__(self, view: View) -> Action:
        prompts = [p for p in view.prefilling if p.mixes]
        running = next((tier for tier in Tier if view.rows.get(tier)), None)
        if not (view.can_mix and prompts and running is not None):
            action: Action = self._decide(view)
            return Begin(action.id) if isinstance(action, Begin) and self._draw.random() < 0.7 else action
        pieces = tuple((p.id, self._draw.choice((1, 2, 3, 7, 30))) for p in prompts if self._draw.random() < 0.8)
        self.pieces += [tokens for _, tokens in pieces]
        shared = self._draw.randint(0, view.rows[Tier.BATCH]) if running is Tier.INTERACTIVE else 0
        return Decode(running, shared, pieces)


def in_company(bench: Bench, prompts: Sequence[Prompt], tokens: int, wants: Sequence[dict[str, Any]]) -> list[Client]:
    """The first, and when it has a token all the others, chats and batch work by turns."""
    later: list[Client] = []

    def watched(take: Callable[[Sequence[Event]], None], events: Sequence[Event]) -> None:
        take(events)
        if not later and first.tokens:
            later.extend(
                bench.send(p, tier=Tier(i % 2), max_tokens=tokens, **w)
                for i, (p, w) in enumerate(zip(prompts[1:], wants[1:], strict=True))
            )

    with bench.held():
        first = bench.send(prompts[0], max_tokens=2 * tokens, **wants[0])
        first.request.sink = functools.partial(watched, first.take)
    assert first.ended.wait(60)
    assert all(client.ended.wait(60) for client in later)
    return [first, *later]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rows_and_prompts_in_one_pass_as_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    texts = ("count to ten", LONG, f"{LONG} now what?", "name a colour")
    prompts = [bench.prompt(t) for t in texts]
    prompts += [bench.prompt("what is in this image?", noise(seed)), bench.prompt(LONG, noise(9), noise(seed))]
    wants: list[dict[str, Any]] = [{}, {"temperature": 1.1, "seed": seed}, {}, {"repetition_penalty": 1.3}, {}, {}]
    expected = []
    for number, (prompt, want) in enumerate(zip(prompts, wants, strict=True)):
        bench.forget()
        expected.append(bench.ask(prompt, max_tokens=24 if number else 48, **want).tokens)
    bench.forget()
    assert not bench.loaded.can.mix
    decisions = Mixing(bench, seed)
    monkeypatch.setattr(bench.core.policy, "decide", decisions)
    clients = in_company(bench, prompts, 24, wants)
    assert [c.tokens for c in clients] == expected
    assert not bench.loaded.can.mix
    assert len(decisions.pieces) > 10


def test_a_pass_that_fails_costs_no_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [bench.prompt(t) for t in ("count to ten", LONG, "name a colour")]
    expected = []
    for number, prompt in enumerate(prompts):
        bench.forget()
        expected.append(bench.ask(prompt, max_tokens=20 if number else 40).tokens)
    bench.forget()
    forward = mixing.forward

    def broken(language: Any, parts: Sequence[mixing.Tokens], wanted: Sequence[int]) -> Any:
        scores = forward(language, parts, wanted)
        if len(parts) > 1:  # keys are written by then
            raise RuntimeError("planted")
        return scores

    monkeypatch.setattr(mixing, "forward", broken)
    monkeypatch.setattr(bench.core.policy, "decide", Mixing(bench, 5))
    try:
        clients = in_company(bench, prompts, 20, [{}] * 3)
        assert [c.tokens for c in clients] == expected
        assert not any(c.failure for c in clients)
        assert "planted" in bench.loaded.can.mix
        assert not bench.loaded.can.batch
    finally:
        bench.loaded.can.mix = ""


def test_the_log_of_units_has_a_line_for_each(bench: Bench) -> None:
    bench.forget()
    bench.ask(f"{LONG} and then?", max_tokens=4)
    bench.on_engine(bench.engine._units.flush)
    path = bench.settings.unit_log
    assert path is not None
    units = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    last = [u for u in units if u["unit"] in ("prefill", "decode")][-4:]
    assert [u["unit"] for u in last] == ["prefill", "decode", "decode", "decode"], "a lone prompt is one unit"
    assert last[0]["tokens"] > 40
    assert all(u["ms"] > 0 and u["rows"] == 1 for u in last[1:])
