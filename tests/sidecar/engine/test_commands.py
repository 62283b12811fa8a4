"""What raises fails who asked; what nobody waits for is dropped; heavy commands wait; models take turns."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from sidecar.engine.commands import Commands, settle, tell
from sidecar.engine.messages import Tier
from sidecar.engine.turns import Turns
from sidecar.errors import OutOfMemory, ran_out_of_memory


def test_a_result_that_comes_after_the_client_left_is_dropped() -> None:
    future: Future[int] = Future()
    assert future.cancel()
    tell(future, 1)
    assert future.cancelled()
    done: list[int] = []
    unwanted: Future[None] = Future()
    assert unwanted.cancel()
    settle(unwanted, lambda: done.append(1))
    assert done == [1], "the work is done although nobody waits"


def test_an_allocation_that_failed_is_nobody_s_fault_and_ends_the_engine() -> None:
    commands = Commands()
    asked: Future[None] = Future()

    def bad() -> None:
        raise RuntimeError("[malloc] Unable to allocate 4096 bytes.")

    commands.put(lambda: settle(asked, bad))
    with pytest.raises(OutOfMemory):
        commands.carry_out(block=False, nested=False)
    assert not asked.done()


@pytest.mark.parametrize(
    ("exc", "memory"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)"), True),
        (RuntimeError("can't start new thread"), True),
        (
            RuntimeError("[metal::malloc] Attempting to allocate 1 bytes which is greater than the maximum allowed"),
            False,
        ),
        (ValueError("shapes (1,0), (1,451)"), False),
        (ImportError("/x/_lib.abi3.so: failed to map segment from shared object"), True),
        (OSError(12, "Cannot allocate memory"), True),
    ],
)
def test_what_an_allocation_that_failed_says(exc: Exception, memory: bool) -> None:
    assert ran_out_of_memory(exc) is memory


def test_a_command_that_raises_fails_its_caller_and_the_next_goes_on() -> None:
    commands = Commands()
    asked: Future[None] = Future()
    done: list[str] = []

    def bad() -> None:
        raise RuntimeError("planted")

    commands.put(lambda: settle(asked, bad))
    commands.put(bad)
    commands.put(lambda: done.append("next"))
    assert not commands.carry_out(block=False, nested=False)
    assert done == ["next"]
    with pytest.raises(RuntimeError, match="planted"):
        asked.result(0)


def test_heavy_commands_wait_for_the_main_loop_and_keep_their_order() -> None:
    commands = Commands()
    done: list[str] = []
    commands.put(lambda: done.append("load"), heavy=True)
    commands.put(lambda: done.append("cancel"))
    commands.put(lambda: done.append("unload"), heavy=True)
    commands.carry_out(block=False, nested=True)
    assert done == ["cancel"]
    commands.carry_out(block=True, nested=False)
    assert done == ["cancel", "load", "unload"]
    commands.put_stop()
    assert commands.carry_out(block=True, nested=False)


def played(turns: Turns[str], busy: dict[str, Tier], cost: dict[str, float], steps: int) -> dict[str, float]:
    """Return the seconds each model had."""
    had = dict.fromkeys(busy, 0.0)
    for _ in range(steps):
        key = turns.choose(busy)
        turns.spent(key, busy[key], cost[key])
        had[key] += cost[key]
    return had


def test_a_batch_job_on_one_model_never_starves_a_chat_on_another() -> None:
    busy = {"batch": Tier.BATCH, "chat": Tier.INTERACTIVE}
    had = played(Turns(share=0.1), busy, {"batch": 0.03, "chat": 0.02}, 1000)
    assert 0.05 < had["batch"] / had["chat"] < 0.15
    alone = played(Turns(share=0.0), busy, {"batch": 0.03, "chat": 0.02}, 1000)
    assert alone["batch"] == 0


def test_models_of_one_tier_share_the_time_and_a_late_one_claims_nothing_back() -> None:
    turns: Turns[str] = Turns()
    played(turns, {"a": Tier.INTERACTIVE}, {"a": 0.02}, 500)
    had = played(turns, {"a": Tier.INTERACTIVE, "b": Tier.INTERACTIVE}, {"a": 0.02, "b": 0.05}, 700)
    assert had["a"] == pytest.approx(had["b"], rel=0.05)
