"""The families that people pull most: the engine's answers are mlx-vlm's own, to the token, in any company.

`make families` runs every family through every column; here are those that cost least and see most.
"""

from __future__ import annotations

import functools

import pytest

from tests.support.families import matrix
from tests.support.families.scenes import PICTURES, Bench

FAMILIES = (
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen2_5_vl",
    "qwen3_5",
    "gemma3",
    "gemma3n",
    "gemma4",
    "mistral3",
    "mistral3_ministral",
    "pixtral",
    "lfm2_vl",
    "internvl_chat",
    "glm4v",
    "smolvlm",
    "gpt_oss",
)
COLUMNS = ("pieces", "groups", "interleaved", "own answer kept", "never mixed", "at random")
SLOW = {"gemma3n": ("pieces", "groups", "turn 2 kept")}
"""Its tower takes seconds a picture: here it answers texts alone. mlx-vlm scores its answers otherwise as prompts."""


@functools.lru_cache(maxsize=2)
def bench(name: str) -> Bench:
    """Return a family on the bench; the tests of one come one after another."""
    made = matrix.load(name)
    made.blind = name in SLOW
    made.rounds = 1
    return made


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # gemma4's sound features, with sizes this small
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_mlx_vlms_own(name: str) -> None:
    on_bench = bench(name)
    columns = [c for c in SLOW.get(name, COLUMNS) if on_bench.sees or c not in PICTURES]
    wrong = {column: lines for column in columns if (lines := matrix.cell(on_bench, column))}
    assert not wrong


ODD = {
    "mllama": ("text", "image", "joined", "resumed"),  # an encoder's states go with the row
    "llama4": ("at once", "joined"),  # caches that can't be joined
    "hunyuan_vl": ("pieces", "groups", "joined", "resumed"),  # positions of four axes
}


@pytest.mark.parametrize("name", ODD)
def test_families_of_their_own_kind(name: str) -> None:
    on_bench = bench(name)
    assert not {column: lines for column in ODD[name] if (lines := matrix.cell(on_bench, column))}


@pytest.mark.parametrize(("name", "missed"), [("llama4", "batch"), ("gemma2", "group")])
def test_what_a_self_check_missed_costs_no_row(name: str, missed: str) -> None:
    """Rows that run well alone go on when others can't join them, or can't be processed together."""
    on_bench = matrix.load(name)
    assert getattr(on_bench.engine.loaded.can, missed)
    setattr(on_bench.engine.loaded.can, missed, "")
    for column in ("joined", "groups"):
        assert matrix.cell(on_bench, column) == []
    assert getattr(on_bench.engine.loaded.can, missed), "the record says it from now on"


def test_a_comparison_sees_a_wrong_token_score_and_end() -> None:
    from tests.support.families.engine import Run
    from tests.support.families.scenes import differences

    on_bench = bench("gpt_oss")
    ask = on_bench.text(0)
    _, right = on_bench.alone(ask)
    assert not differences([(ask, right)])

    def changed(tokens: list[int], logprobs: list[float]) -> list[str]:
        run = Run(right.label, right.request, tokens, logprobs, ended=True)
        return differences([(ask, run)])

    assert changed([right.tokens[0] + 1, *right.tokens[1:]], right.logprobs)
    assert changed(right.tokens, [right.logprobs[0] - 0.01, *right.logprobs[1:]])
    assert changed(right.tokens[:-1], right.logprobs[:-1])
    assert changed(right.tokens, [float("nan"), *right.logprobs[1:]])
