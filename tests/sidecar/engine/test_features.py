"""A conversation's pictures are encoded once, and what is kept of a long conversation is as much of it as fits."""

from __future__ import annotations

import logging

import mlx.core as mx
import pytest

from sidecar.backend import features, loader
from sidecar.backend.passes import PromptBatch, decode
from sidecar.backend.positions import embed
from sidecar.engine.messages import Tier
from sidecar.engine.prefix_cache import PrefixCache
from tests.support.families import build, matrix
from tests.support.families.scenes import differences


@pytest.mark.parametrize("name", ["qwen3_vl", "pixtral"])
def test_a_next_turn_encodes_no_picture_again(name: str) -> None:
    bench = matrix.load(name)
    memory = bench.engine.runner.stage._towers
    more = bench.words(" and then? tell me more about that.")
    first = bench.image(0)
    assert differences([bench.alone(first)]) == []
    assert memory.hits == 0
    assert memory.size > 0
    assert differences([bench.alone(bench.after(first, more, "turn 2"))]) == []
    assert memory.hits == 1
    assert differences([bench.alone(bench.image(1))]) == []  # the same text, another picture
    assert memory.hits == 1
    assert differences([bench.alone(first), bench.alone(bench.image(1, text="What colours are there?"))]) == []
    assert memory.hits == 3
    bench.engine.forget()
    assert memory.size == 0
    assert differences([bench.alone(first)]) == []
    assert memory.hits == 3


def test_features_are_bounded_and_the_callers_own() -> None:
    memory = features.FeatureMemory(limit=3000)
    memory.put(b"a", (mx.ones((300,)), None))
    memory.put(b"b", mx.zeros((300,)))
    taken = memory.get(b"a")[0]
    taken[:] = 5
    assert mx.array_equal(memory.get(b"a")[0], mx.ones((300,)))
    memory.put(b"c", mx.zeros((300,)))
    assert memory.get(b"b") is None, "the least recently used goes"
    assert memory.size == 2400
    memory.put(b"d", mx.zeros((3000,)))
    memory.put(b"e", {"name": "no array"})
    assert memory.get(b"d") is None
    assert memory.get(b"e") is None


def test_of_a_conversation_that_is_too_long_the_start_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    loaded = loader.load(build("qwen3"), lambda _: None)
    tokens = [40 + i % 200 for i in range(900)]
    whole = PromptBatch(loaded.model, [0], [tokens], [embed(loaded.model, tokens)])
    wanted, _ = whole.finish()
    size = sum(int(c.nbytes) for c in whole.cache)
    with caplog.at_level(logging.INFO, "sidecar.engine"):
        kept = PrefixCache(size * 2 // 3)
        kept.store(tuple(tokens), whole.cache, 0, Tier.INTERACTIVE)
        kept.store(tuple(tokens), whole.cache, 0, Tier.INTERACTIVE)
    assert len(kept) == 1
    assert kept.bytes <= size * 2 // 3
    assert len([r for r in caplog.records if "--prefix-cache-mb" in r.getMessage()]) == 1, "said once"
    found = kept.lookup(tuple(tokens))
    assert found is not None
    cache, start = found
    assert 400 < start < 720
    rest = PromptBatch(loaded.model, [0], [tokens], [embed(loaded.model, tokens)], cache=cache, start=start)
    logits, state = rest.finish()
    assert mx.allclose(logits, wanted, atol=1e-4)
    assert decode(loaded.model.language_model, mx.array([[5]]), rest.cache, state).shape[0] == 1
    pictures = (*tokens[:800], *[-7] * 50, *tokens[850:])
    assert not PrefixCache(size // 2).match(pictures)
    small = PrefixCache(size // 2)
    small.store(pictures, whole.cache, 0, Tier.INTERACTIVE)
    assert len(small) == 0, "a start that ends before the last picture is of no use"
