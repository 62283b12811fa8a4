"""Kept prefixes on disk: a chat goes on after a restart of everything with the same tokens, or is computed anew."""

from __future__ import annotations

import logging
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from sidecar.backend import packing
from sidecar.engine import prefix_disk, sealed
from sidecar.engine.messages import Tier
from sidecar.engine.prefix_cache import key_of
from sidecar.engine.prefix_disk import common
from sidecar.engine.rows import Prompt, Token
from sidecar.engine.sealed import SealedFolder
from tests.support.benches import Bench, Client, noise

STORY = "the harbour was full of boats and nets and gulls and rope and tar, and nobody was there to see it. " * 5
MORE = " What did the keeper say then?"


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Path:
    return model_dir / "tiny-vl"


@pytest.fixture
def start(model: Path, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Start an engine over the same state directory as the last, which is ended first."""
    running: list[Bench] = []

    def begin(folder: Path = tmp_path, path: Path = model, **settings: Any) -> Bench:
        stop()
        running.append(Bench(path, folder, **{"prefix_disk_mb": 64, **settings}))
        return running[-1]

    def stop() -> None:
        while running:
            running.pop().engine.stop()

    yield begin
    stop()


def saved(bench: Bench) -> list[Path]:
    """Wait until everything is written; return the files."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        entries = bench.on_engine(lambda: [e.saved for e in bench.core.prefixes._entries])
        if all(entries) and not bench.on_engine(lambda: bench.core.save(lambda: None)):
            break
        time.sleep(0.01)
    folder = bench.settings.state_dir / "prefixes"
    return sorted(p for p in folder.rglob("*-*") if not p.name.startswith("."))


def longer(bench: Bench, first: Client, text: str = MORE) -> Prompt:
    """Return the next turn: the first one's prompt, its answer and more words."""
    tokens = (*first.request.prompt.tokens, *first.tokens, *bench.loaded.tokenizer.encode(text))
    old = first.request.prompt
    inputs = old.inputs
    if inputs is not None:
        ids = mx.array([tokens])
        inputs = {**inputs, "input_ids": ids, "attention_mask": mx.ones(ids.shape, mx.int32)}
        mx.eval(list(inputs.values()))  # what is lazy belongs to this thread
    return Prompt(tokens=tokens, inputs=inputs, media=old.media)


def scores(client: Client) -> list[float]:
    return [e.logprob for e in client.events if isinstance(e, Token)]


@pytest.mark.parametrize("pictures", [0, 2])
def test_a_chat_goes_on_after_a_restart_as_if_it_had_not_been(
    start: Callable[..., Bench], tmp_path: Path, pictures: int
) -> None:
    bench = start()
    first = bench.ask(bench.prompt(STORY, *(noise(i) for i in range(pictures))), max_tokens=20, logprobs=True)
    turn = longer(bench, first)
    files = saved(bench)
    assert files
    bench.core.save = lambda done: False  # what this turn leaves is not to be on the disk
    in_memory = bench.ask(turn, logprobs=True, top_logprobs=3)
    assert in_memory.cached > len(first.request.prompt.tokens)
    bench = start()
    again = bench.ask(turn, logprobs=True, top_logprobs=3)
    assert again.cached == in_memory.cached, "all of it, to the last token of the answer"
    assert again.tokens == in_memory.tokens
    assert scores(again) == scores(in_memory), "bit for bit"
    assert bench.core.stage._towers.hits == bool(pictures), "its pictures are not encoded again"
    cold = start(tmp_path / "elsewhere").ask(turn, logprobs=True)
    assert cold.cached == 0
    assert cold.tokens == again.tokens
    assert scores(cold) == pytest.approx(scores(again), abs=1e-4)


@pytest.mark.parametrize("left", [3, 30, -6], ids=["a block's first tokens", "within a block", "within the end"])
def test_a_prompt_that_leaves_a_chat_goes_on_from_there_after_a_restart(
    start: Callable[..., Bench], tmp_path: Path, left: int
) -> None:
    """An answer done anew, another question: of the block in which it leaves the chat the beginning is of use."""
    bench = start()
    first = bench.ask(STORY, max_tokens=40)
    bench.ask(longer(bench, first, MORE * 8), max_tokens=4)
    sequence = (*first.request.prompt.tokens, *first.tokens)
    at = 128 + left if left > 0 else len(sequence) + left
    turn = Prompt(tokens=(*sequence[:at], *bench.loaded.tokenizer.encode(" and nothing else, dear.")))
    saved(bench)
    shutil.copytree(bench.settings.state_dir, tmp_path / "then")
    in_memory = bench.ask(turn, logprobs=True)
    assert in_memory.cached == at
    again = start(tmp_path / "then").ask(turn, logprobs=True)
    assert again.cached == (at if left != 3 else 128)
    assert again.tokens == in_memory.tokens
    if again.cached == at:
        assert scores(again) == scores(in_memory), "bit for bit"


def test_of_several_blocks_in_question_the_one_that_goes_furthest_is_used(start: Callable[..., Bench]) -> None:
    bench = start()
    first = bench.ask(STORY, max_tokens=20)
    sequence, encode = (*first.request.prompt.tokens, *first.tokens), bench.loaded.tokenizer.encode
    for cut, words in ((10, " one or two, three"), (40, " five or six, seven"), (20, " eight or nine")):
        bench.ask(Prompt(tokens=(*sequence[: 192 + cut], *encode(words))), max_tokens=2)
        saved(bench)
    turn = Prompt(tokens=(*sequence[: 192 + 38], *encode(" nothing of the kind")))
    assert start().ask(turn).cached == 192 + 38


def test_turns_share_their_blocks_and_nothing_can_be_read(start: Callable[..., Bench]) -> None:
    bench = start()
    first = bench.ask(STORY, max_tokens=20)
    before = saved(bench)
    bench.ask(longer(bench, first, MORE * 8), max_tokens=4)
    after = saved(bench)
    assert len(set(after) - set(before)) <= 3, "what is new alone"
    assert len(set(before) - set(after)) == 1, "the first turn's end, which the second contains"
    key = bench.settings.state_dir / "prefixes.key"
    for path in [*after, key]:
        assert path.stat().st_mode & 0o077 == 0
    words = b"".join(str(t).encode() for t in first.request.prompt.tokens[:8])
    for path in after:
        data = path.read_bytes()
        assert b"harbour" not in data
        assert words not in data
        assert b"float" not in data, "the head is sealed, too"


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced(path: Path) -> None:
    path.write_bytes(b"somebody else's file" * 90)


def a_link(path: Path) -> None:
    path.rename(path.with_name(".moved"))
    path.symlink_to(path.with_name(".moved"))


def swapped(path: Path) -> None:
    """Two blocks under one another's names."""
    other = next(p for p in path.parent.iterdir() if p != path and p.stat().st_size == path.stat().st_size)
    third = path.with_name("between")
    path.rename(third)
    other.rename(path)
    third.rename(other)


@pytest.mark.parametrize("spoil", [damaged, cut, emptied, replaced, a_link, swapped], ids=lambda f: f.__name__)
def test_a_spoilt_file_is_thrown_away_and_the_answer_is_right(
    start: Callable[..., Bench], spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    bench = start()
    first = bench.ask(STORY, max_tokens=8)
    turn = longer(bench, first)
    files = saved(bench)
    want = bench.ask(turn)
    key, _ = key_of(turn.tokens, "", frozenset())
    blocks, _ = bench.core.prefixes._disk.longest(key)
    path = next(p for p in files if p.name == blocks[1])
    saved(bench)
    bench = start()
    spoil(path)
    with caplog.at_level(logging.WARNING, "sidecar.engine"):
        got = bench.ask(turn)
    assert got.tokens == want.tokens
    assert got.cached < want.cached
    assert got.cached in (0, prefix_disk.BLOCK), "what stands before it is good"
    assert [r for r in caplog.records if "kept prefix" in r.getMessage()]
    bench.on_engine(lambda: None)
    assert not bench.deaths
    saved(bench)
    bench = start()
    assert bench.ask(turn).cached > got.cached, "and written anew"


def test_another_build_version_or_key_finds_nothing(
    start: Callable[..., Bench], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "model"
    shutil.copytree(model, own)
    bench = start(path=own)
    turn = longer(bench, bench.ask(STORY, max_tokens=8))
    assert saved(bench)
    assert start(path=own).ask(turn).cached > 0

    def tuned() -> None:  # a build that was tuned further, under the same name
        file = own / "config.json"
        file.write_text(file.read_text() + "\n")

    def older() -> None:
        monkeypatch.setattr("sidecar.engine.kept.__version__", "0.0.9")

    def rekeyed() -> None:
        (tmp_path / "prefixes.key").unlink()

    def opened() -> None:
        (tmp_path / "prefixes.key").chmod(0o644)

    for change in (tuned, older, rekeyed, opened):
        before = saved(bench := start(path=own))
        bench.engine.stop()
        change()
        bench = start(path=own)
        assert not set(saved(bench)) & set(before), f"{change.__name__}: what was there is removed"
        assert bench.ask(turn).cached == 0, change.__name__
        assert saved(bench)
        assert start(path=own).ask(turn).cached > 0, "it begins anew"


def test_salts_keep_apps_apart(start: Callable[..., Bench]) -> None:
    bench = start()

    def ask(salt: str) -> Client:
        client = bench.send(STORY, max_tokens=1)
        assert client.ended.wait(60)
        with bench.held():
            client = bench.send(STORY, max_tokens=4)
            client.request.salt = salt
        assert client.ended.wait(60)
        return client

    def of(salt: str) -> int:
        tokens = tuple(range(300))
        return common(key_of(tokens, "", frozenset(), salt)[0], key_of(tokens, "", frozenset(), "a")[0])

    assert [of("a"), of("b"), of("")] == [300, 0, 0]
    assert ask("one").cached == 0
    assert ask("two").cached == 0
    assert ask("one").cached > 200
    saved(bench)
    bench = start()
    assert ask("three").cached == 0
    assert ask("two").cached > 200


def test_the_limit_holds_and_the_oldest_conversation_goes_first(start: Callable[..., Bench]) -> None:
    bench = start()
    first = bench.ask(STORY, max_tokens=4)
    size = sum(p.stat().st_size for p in saved(bench))
    limit = 1
    last = (limit << 20) // size + 1
    bench = start(prefix_disk_mb=limit)
    for i in range(last + 1):
        bench.ask(f"{i} {STORY}", max_tokens=4)
        assert sum(p.stat().st_size for p in saved(bench)) <= limit << 20
    bench = start(prefix_disk_mb=limit)
    assert bench.ask(f"{last} {STORY}", max_tokens=4).cached > 200
    assert bench.ask(first.request.prompt, max_tokens=4).cached == 0
    bench = start(prefix_disk_mb=0)
    assert not (bench.settings.state_dir / "prefixes").exists(), "off: nothing is left behind"
    assert not (bench.settings.state_dir / "prefixes.key").exists()


def test_batch_work_and_short_talk_are_not_written(start: Callable[..., Bench]) -> None:
    bench = start()
    bench.ask(STORY, max_tokens=4, tier=Tier.BATCH)
    bench.ask("hello", max_tokens=4)
    assert saved(bench) == []


def test_a_full_disk_costs_nobody_an_answer(
    start: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sealed, "LEAST_FREE", 1 << 60)
    monkeypatch.setattr(SealedFolder.__init__, "__kwdefaults__", {"least_free": 1 << 60})
    bench = start()
    with caplog.at_level(logging.WARNING, "sidecar.engine"):
        first = bench.ask(STORY, max_tokens=4)
        assert saved(bench) == []
        assert bench.ask(longer(bench, first)).cached > 200, "in memory it is kept"
        saved(bench)
    assert len([r for r in caplog.records if "nearly full" in r.getMessage()]) == 1, "said once"


def test_a_write_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    code = f"""
import pathlib, resource, signal
from sidecar.engine.sealed import SealedFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
root = pathlib.Path({str(tmp_path)!r})
folder = SealedFolder(root / "kept", root / "key", limit=1 << 30, edition="1", least_free=0)
assert folder.write("small", b"x" * 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
assert not folder.write("large", b"x" * 9000)
assert not folder.write("small2", b"x" * 100), "it rests"
assert folder.read("small") == b"x" * 100
assert folder.read("large") is None
print(sorted(p.name for p in root.rglob("*") if p.is_file()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['CACHEDIR.TAG', 'key', 'small']", done.stderr
    assert resource.RLIMIT_FSIZE
    assert signal.SIGXFSZ


def test_two_processes_over_one_folder_harm_nobody(tmp_path: Path) -> None:
    def folder() -> SealedFolder:
        return SealedFolder(tmp_path / "kept", tmp_path / "key", limit=3000, edition="1", least_free=0)

    one, two = folder(), folder()
    assert one.write("a", b"a" * 900)
    assert two.read("a") == b"a" * 900, "found although another wrote it"
    assert two.write("b", b"b" * 900)
    two.remove(["a"])
    assert one.read("a") is None
    assert "a" not in one
    assert one.write("c", b"c" * 900)
    assert folder().size <= 3000
    (tmp_path / "locked").mkdir()
    older = SealedFolder(tmp_path / "kept", tmp_path / "key", limit=3000, edition="2", least_free=0)
    assert older.names() == []
    assert one.read("c") is None, "its folder is gone"
    assert not one.write("d", b"d"), "and it goes on without"


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16, mx.uint32])
def test_arrays_come_back_bit_for_bit(dtype: mx.Dtype) -> None:
    given = (mx.random.normal((1, 3, 5, 4)) * 100).astype(dtype)
    tree = {"a": [given[..., 1:4, :], None, (given.transpose(0, 2, 1, 3),)], "b": mx.zeros((0, 2), dtype)}
    packed = packing.pack(tree)
    assert packed is not None
    back = packing.unpack(packed)
    assert isinstance(back["a"][2], tuple)
    assert mx.array_equal(back["a"][0], given[..., 1:4, :])
    assert back["a"][0].dtype == dtype
    assert mx.array_equal(back["a"][2][0], given.transpose(0, 2, 1, 3))
    assert back["b"].shape == (0, 2)
    assert packing.pack({"a": object()}) is None
    for wrong in (packed[:-1], packed + b"x", packed[:20], b"", b"\xff" * 40):
        with pytest.raises(ValueError, match=r".*"):
            packing.unpack(wrong)
