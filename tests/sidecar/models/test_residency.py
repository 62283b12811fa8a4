"""Models in memory: least recently used, never one in use, idle ones go, what would not fit is refused. Real engine."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from host_api.loopback import durations
from sidecar.api import progress, service
from sidecar.backend import loader
from sidecar.config import Settings
from sidecar.engine import memory
from sidecar.engine.metrics import Meter
from sidecar.errors import LoadError
from sidecar.models import pressure
from sidecar.models.pressure import Level, Shed, Shedder
from sidecar.models.residency import InUse, NotEnoughMemory, Residency
from sidecar.models.warm_start import WarmStart
from tests.support.benches import Bench
from tests.support.engines import LocalClient
from tests.support.servers import wait_for

MB = 1 << 20


@dataclass
class Clock:
    """A clock the test turns."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> dict[str, Path]:
    """Three copies of a tiny chat model and an embedding model."""
    root = tmp_path_factory.mktemp("resident")
    for name in "abc":
        shutil.copytree(model_dir / "tiny-vl", root / name)
    return {**{n: root / n for n in "abc"}, "e": model_dir / "minilm"}


@pytest.fixture(scope="module")
def engine() -> Any:
    one = LocalClient()
    yield one
    one.local.stop()
    assert not one.errors


def play(engine: LocalClient, scene: Callable[[Residency], Awaitable[None]], **options: Any) -> None:
    """Run ``scene`` with a fresh table, and unload what it leaves."""

    async def run() -> None:
        table = Residency(engine, **options)
        try:
            async with asyncio.timeout(120):
                await scene(table)
        finally:
            for path in list(table._resident):
                await table.unload(path)

    asyncio.run(run())


def test_the_least_recently_used_goes(engine: LocalClient, folders: dict[str, Path]) -> None:
    clock = Clock()

    async def scene(table: Residency) -> None:
        for name in "ab":
            async with table.use(name, folders[name], "chat"):
                clock.now += 1
        async with table.use("e", folders["e"], "embedding"):
            clock.now += 1
        async with table.use("a", folders["a"], "chat"):
            clock.now += 1
        async with table.use("c", folders["c"], "chat"):
            clock.now += 1
        assert set(table.names()) == {"a", "c", "e"}
        assert table.names("chat")[0] == "c"

    play(engine, scene, max_chat=2, clock=clock)


def test_one_in_use_is_never_taken_and_a_swap_waits_for_it(engine: LocalClient, folders: dict[str, Path]) -> None:
    async def scene(table: Residency) -> None:
        order: list[str] = []
        started, finish = asyncio.Event(), asyncio.Event()

        async def long() -> None:
            async with table.use("a", folders["a"], "chat") as model:
                started.set()
                await finish.wait()
                assert Path(model.path) in engine.thread.models
                order.append("a")

        async def other(name: str) -> None:
            async with table.use(name, folders[name], "chat"):
                order.append(name)

        first = asyncio.create_task(long())
        await started.wait()
        swap = asyncio.create_task(other("b"))
        await asyncio.sleep(0.05)
        again = asyncio.create_task(other("a"))  # waits for the swap: else it might never come
        assert table.names("chat") == ["a"]
        assert not swap.done()
        with pytest.raises(InUse):
            await table.remove(folders["b"], lambda: 0)
        finish.set()
        await asyncio.gather(first, swap, again)
        assert order == ["a", "b", "a"]

    play(engine, scene)


def test_all_that_waited_for_a_load_are_served_before_the_next_swap(
    engine: LocalClient, folders: dict[str, Path]
) -> None:
    async def scene(table: Residency) -> None:
        loads: list[Path] = []
        real = engine.load

        def counting(path: Path) -> Any:
            loads.append(path)
            return real(path)

        async def one(name: str) -> None:
            async with table.use(name, folders[name], "chat"):
                await asyncio.sleep(0.01)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "load", counting)
            await asyncio.gather(*(one(n) for n in "abababab"))
        assert len(loads) == 2, "no thrashing"

    play(engine, scene)


def test_a_client_that_leaves_during_a_load_loses_nothing(engine: LocalClient, folders: dict[str, Path]) -> None:
    async def scene(table: Residency) -> None:
        async def ask() -> None:
            async with table.use("a", folders["a"], "chat"):
                pass

        task = asyncio.create_task(ask())
        while table.loading is None:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with table.use("b", folders["b"], "chat"):
            assert set(engine.thread.models) == {folders["b"]}, (
                "nothing is left in the engine that the table doesn't know"
            )

    play(engine, scene)


def test_idle_models_go_after_their_time(engine: LocalClient, folders: dict[str, Path]) -> None:
    clock = Clock()

    async def scene(table: Residency) -> None:
        async with table.use("a", folders["a"], "chat"):
            clock.now += 500
            assert await table.sweep() == [], "not while it is used"
        clock.now += 59
        assert await table.sweep() == []
        assert table.state(folders["a"])["unloads_in"] == 1.0
        clock.now += 1
        assert await table.sweep() == ["a"]
        async with table.use("a", folders["a"], "chat", keep_alive=math.inf):
            pass
        clock.now += 1e9
        assert await table.sweep() == []
        async with table.use("a", folders["a"], "chat", keep_alive=0):
            pass
        assert await table.sweep() == ["a"]
        assert not engine.thread.models

    play(engine, scene, keep_alive=60.0, clock=clock)


def test_memory_pressure_takes_idle_models_one_by_one(engine: LocalClient, folders: dict[str, Path]) -> None:
    clock = Clock()

    async def scene(table: Residency) -> None:
        for name in "ab":
            async with table.use(name, folders[name], "chat"):
                clock.now += 1
        async with table.use("b", folders["b"], "chat"):
            await engine.shed()
            assert await table.shed() == ["a"]
            assert await table.shed() == [], "never one in use"
        assert await table.shed() == ["b"]

    play(engine, scene, max_chat=2, clock=clock)


def test_what_would_not_fit_is_refused_and_what_is_there_stays(engine: LocalClient, folders: dict[str, Path]) -> None:
    need = memory.estimate(loader.read_config(folders["a"]), 0, context=4096).total

    async def scene(table: Residency) -> None:
        async with table.use("a", folders["a"], "chat"):
            pass
        room[0] = need // 2
        with pytest.raises(NotEnoughMemory) as caught:
            async with table.use("b", folders["b"], "chat"):
                pass
        assert caught.value.available < caught.value.need.total
        assert table.names() == ["a"]
        room[0] = 1 << 40
        async with table.use("b", folders["b"], "chat"):
            pass
        assert table.names() == ["b"]

    room = [1 << 40]
    play(engine, scene, room=lambda held: room[0])


def test_a_broken_model_leaves_the_old_one(engine: LocalClient, folders: dict[str, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folders["a"], bad)
    (bad / "config.json").write_text('{"model_type": "no_such_thing"}')

    async def scene(table: Residency) -> None:
        async with table.use("a", folders["a"], "chat"):
            pass
        with pytest.raises(LoadError):
            async with table.use("bad", bad, "chat"):
                pass
        assert table.names() == ["a"]
        async with table.use("a", folders["a"], "chat"):
            pass

    play(engine, scene, room=lambda held: 1 << 40)


def test_all_who_wait_for_a_load_share_its_failure(
    engine: LocalClient, folders: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folders["a"], bad)
    (bad / "config.json").write_text('{"model_type": "no_such_thing"}')

    async def scene(table: Residency) -> None:
        loads: list[Path] = []
        real = engine.load

        def counting(path: Path) -> Any:
            loads.append(path)
            return real(path)

        async def ask(name: str, path: Path) -> None:
            async with table.use(name, path, "chat"):
                pass

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "load", counting)
            asked = [ask("bad", bad) for _ in range(10)]
            told = await asyncio.gather(ask("a", folders["a"]), *asked, return_exceptions=True)
        assert told[0] is None
        assert all(isinstance(one, LoadError) for one in told[1:])
        assert loads.count(bad) == 1

    play(engine, scene)


def test_a_keep_alive_once_set_stays_until_another_is_given(engine: LocalClient, folders: dict[str, Path]) -> None:
    clock = Clock()

    async def scene(table: Residency) -> None:
        async with table.use("a", folders["a"], "chat", keep_alive=math.inf):
            pass
        async with table.use("a", folders["a"], "chat"):
            pass
        clock.now += 1e6
        assert await table.sweep() == []
        async with table.use("a", folders["a"], "chat", keep_alive=5):
            pass
        clock.now += 6
        assert await table.sweep() == ["a"]

    play(engine, scene, keep_alive=60.0, clock=clock)


def test_answers_go_on_between_the_steps_of_a_load(folders: dict[str, Path], tmp_path: Path) -> None:
    bench = Bench(folders["a"], tmp_path)
    grown: list[int] = []
    try:
        client = bench.send("count to ten", max_tokens=100_000, logit_bias=((2, -100.0),))
        wait_for(lambda: len(client.tokens) > 2)
        progress = bench.engine._progress

        def watched(part: float) -> None:
            before = len(client.tokens)
            progress(part)
            grown.append(len(client.tokens) - before)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bench.engine, "_progress", watched)
            assert bench.engine.load(folders["e"]).result(60).kind == "embedding"
        assert len(grown) >= 4
        assert all(grown)
        assert client.failure is None
    finally:
        bench.engine.stop()
    assert not bench.deaths


# --- pure parts -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("90", 90),
        (90, 90),
        ("0", 0),
        (0, 0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        (" 2H ", 7200),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert durations.parse(text) == seconds


@pytest.mark.parametrize("text", ["-1", -1, "-5m"])
def test_for_ever(text: str | float) -> None:
    assert durations.parse(text) == math.inf


@pytest.mark.parametrize("text", ["", "soon", "5x", "m5", "1h-3m", "nan", float("nan"), "--1"])
def test_durations_that_are_none(text: str | float) -> None:
    with pytest.raises(ValueError, match="give seconds"):
        durations.parse(text)


def test_the_estimate() -> None:
    qwen = {"text_config": {"num_hidden_layers": 36, "num_attention_heads": 32, "hidden_size": 2560}}
    qwen["text_config"] |= {"num_key_value_heads": 8, "head_dim": 128}
    assert memory.kv_bytes_per_token(qwen) == 36 * 8 * 128 * 2 * 2
    found = memory.estimate(qwen, 2_900_000_000, context=262144)
    assert found.tokens == 4096
    assert found.kv == 36 * 8 * 128 * 4 * 4096
    assert found.total == found.weights + found.kv + found.work
    plain = {"n_layer": 12, "n_head": 12, "n_embd": 768}
    assert memory.kv_bytes_per_token(plain) == 12 * 768 * 4
    latent = {"num_hidden_layers": 27, "num_attention_heads": 16, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    assert memory.kv_bytes_per_token(latent) == 27 * 576 * 2
    assert memory.kv_bytes_per_token({"model_type": "x", "num_hidden_layers": "many"}) == 0


def test_the_room() -> None:
    gb = 1 << 30
    assert memory.room_of(12 * gb, 10 * gb, 0) == 9 * gb
    assert memory.room_of(12 * gb, 15 * gb, 0) == 12 * gb
    assert memory.room_of(12 * gb, 15 * gb, 8 * gb) == 4 * gb
    assert memory.room_of(12 * gb, 15 * gb, 8 * gb, limit=6 * gb) == 0
    assert memory.room_of(12 * gb, 15 * gb, 0, limit=64 * gb) == 12 * gb


PSI = "some avg10={some} avg60=0.00 avg300=0.00 total=1\nfull avg10={full} avg60=0.00 avg300=0.00 total=1\n"


@pytest.mark.parametrize(
    ("some", "full", "level"),
    [("0.00", "0.00", Level.NORMAL), ("12.50", "1.00", Level.WARNING), ("50.00", "30.00", Level.CRITICAL)],
)
def test_pressure_of_linux(some: str, full: str, level: Level) -> None:
    assert pressure.of_psi(PSI.format(some=some, full=full)) is level
    assert pressure.of_psi("nonsense\nsome avg10=x") is Level.NORMAL


def test_pressure_of_macos() -> None:
    assert [pressure.of_darwin(v) for v in (0, 1, 2, 4)] == [Level.NORMAL, Level.NORMAL, Level.WARNING, Level.CRITICAL]
    assert pressure.read() in Level


def test_caches_go_first_then_idle_models_one_by_one() -> None:
    shedder = Shedder()
    story = [(Level.NORMAL, 0), (Level.WARNING, 1), (Level.WARNING, 3), (Level.CRITICAL, 4), (Level.CRITICAL, 6)]
    story += [(Level.CRITICAL, 8), (Level.CRITICAL, 12), (Level.WARNING, 33), (Level.NORMAL, 90)]
    told = [shedder.decide(level, now) for level, now in story]
    none, caches, model = Shed.NOTHING, Shed.CACHES, Shed.MODEL
    assert told == [none, caches, none, none, model, none, model, caches, none]


def test_a_fault_while_memory_is_given_up_or_the_engine_looked_at_ends_no_watch(
    tmp_path: Path, engine: LocalClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else sweeps, relieves or ends a stuck engine for the rest of the server's life."""
    looks: dict[str, int] = {"relief": 0, "engine": 0, "load": 0}

    def failing(name: str) -> Callable[..., Any]:
        def look(*_: Any) -> None:
            looks[name] += 1
            if looks[name] < 3:
                raise RuntimeError(f"{name} fails")

        return look

    monkeypatch.setattr(service, "_IDLE_INTERVAL", 0.01)
    monkeypatch.setattr(service, "_PRESSURE_INTERVAL", 0.0)
    monkeypatch.setattr(pressure, "read", lambda: Level.NORMAL)
    monkeypatch.setattr(progress, "loading", failing("load"))
    monkeypatch.setattr(engine, "check", failing("engine"))

    async def run() -> None:
        one = service.Service(Settings(state_dir=tmp_path, data_dir=tmp_path), engine, Meter(), instance_id="x")
        relief = failing("relief")

        async def relieve(level: Level, now: float) -> None:
            relief()

        monkeypatch.setattr(one, "relieve", relieve)
        one.start()
        async with asyncio.timeout(20):
            while min(looks.values()) < 5:
                await asyncio.sleep(0.01)
        await one.drain(0)

    asyncio.run(run())


def test_a_start_that_died_loading_is_not_repeated(tmp_path: Path) -> None:
    warm = WarmStart(tmp_path)
    assert warm.begin() is None
    warm.used("starter")
    assert WarmStart(tmp_path).begin() == "starter"  # and dies
    assert WarmStart(tmp_path).begin() is None
    quit_early = WarmStart(tmp_path)
    assert quit_early.begin() == "starter"
    quit_early.survived("starter")
    again = WarmStart(tmp_path)
    assert again.begin() == "starter"
    again.used("starter")
    assert WarmStart(tmp_path).begin() == "starter"
    again.forget()
    assert WarmStart(tmp_path).begin() is None
    (tmp_path / "last-model.json").write_text("[1]")
    assert WarmStart(tmp_path).begin() is None
