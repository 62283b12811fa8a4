"""Two requests in one batch, whatever each asks for, joining and leaving at any step: each gets what it gets alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.engine.messages import Tier
from sidecar.engine.rows import Event, Token
from sidecar.text.language import language_of
from tests.support.benches import Bench, Client, noise
from tests.support.models import qwen3_vl

WANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "top 2": {"logprobs": True, "top_logprobs": 2},
    "top 7": {"logprobs": True, "top_logprobs": 7},
    "repetition": {"repetition_penalty": 1.3},
    "presence": {"presence_penalty": 0.8, "frequency_penalty": 0.5, "top_logprobs": 1},
    "bias": {"logit_bias": ((70, 4.0), (71, 3.0))},
    "sampled": {"temperature": 1.1, "seed": 7, "top_p": 0.9},
    "grammar": {},
    "picture": {"top_logprobs": 3},
}
PICTURE = noise(3)
GRAMMAR = 'start: /[a-m]{1,6}/ (":" | ",") /[0-9]{1,9}/'


def ask(bench: Bench, want: str, text: str, tokens: int, tier: Tier = Tier.INTERACTIVE) -> Client:
    """Send a request that wants something."""
    constraint = language_of(bench.loaded).grammars.lark(GRAMMAR) if want == "grammar" else None
    prompt = bench.prompt(text, PICTURE) if want == "picture" else bench.prompt(text)
    return bench.send(prompt, max_tokens=tokens, tier=tier, constraint=constraint, **WANTS[want])


def given(client: Client) -> list[tuple[int, float, tuple[int, ...]]]:
    """What a client got: ids, rounded scores, ids of the alternatives."""
    assert client.ended.wait(120)
    assert client.failure is None, client.failure
    return [(e.id, e.logprob, tuple(i for i, _ in e.top)) for e in client.events if isinstance(e, Token)]


def assert_same(found: Sequence[tuple[int, float, tuple[int, ...]]], alone: Sequence[Any], what: str) -> None:
    assert [t[0] for t in found] == [t[0] for t in alone], what
    assert [t[1] for t in found] == pytest.approx([t[1] for t in alone], abs=2e-3), what
    assert [len(t[2]) for t in found] == [len(t[2]) for t in alone], what


class Pairs:
    """Answers alone, remembered, and pairs of requests compared with them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._alone: dict[tuple[str, str, int], Any] = {}

    def alone(self, want: str, text: str, tokens: int) -> Any:
        key = (want, text, tokens)
        if key not in self._alone:
            self.bench.forget()
            self._alone[key] = given(ask(self.bench, want, text, tokens))
        return self._alone[key]

    def check(self, first: str, second: str, *, joins: int, lengths: tuple[int, int], tier: Tier) -> None:
        """The second comes when the first has ``joins`` tokens."""
        texts = ("count to ten", "name a colour, please")
        expected = [self.alone(w, t, n) for w, t, n in zip((first, second), texts, lengths, strict=True)]
        self.bench.forget()
        later: list[Client] = []

        def take(events: Sequence[Event]) -> None:
            client.take(events)
            if not later and len(client.tokens) >= joins:
                later.append(ask(self.bench, second, texts[1], lengths[1], tier))

        with self.bench.held():
            client = ask(self.bench, first, texts[0], lengths[0])
            client.request.sink = take
        what = f"{first} of {lengths[0]} tokens, {second} of {lengths[1]} after {joins}, {tier.label}"
        assert_same(given(client), expected[0], what)
        if later:
            assert_same(given(later[0]), expected[1], what)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads wide enough to be quantized."""
    text = {"head_dim": 32, "rope_scaling": {"type": "default", "mrope_section": [8, 4, 4]}}
    return qwen3_vl(tmp_path_factory.mktemp("pairs") / "tiny", text=text)


@pytest.fixture(scope="module", params=["plain", "guesses", "quantized"])
def pairs(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    more = {"plain": {}, "guesses": {"speculative_tokens": 3}, "quantized": {"kv_bits": 8}}[request.param]
    bench = Bench(folder, tmp_path_factory.mktemp("bench"), **more)
    yield Pairs(bench)
    assert not bench.loaded.can.batch
    bench.engine.stop()


@pytest.mark.parametrize("first", WANTS)
def test_whatever_two_requests_want_each_gets_what_it_gets_alone(pairs: Pairs, first: str) -> None:
    draw = random.Random(first)
    for second in WANTS:
        pairs.check(
            first,
            second,
            joins=draw.randint(1, 6),
            lengths=draw.choice([(14, 4), (8, 12), (9, 9)]),
            tier=draw.choice(list(Tier)),
        )
