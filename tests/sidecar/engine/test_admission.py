"""The ledger's arithmetic: what a row takes by kind of layer, what a request needs, who makes room."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_vlm.models.cache import ArraysCache, BatchKVCache, KVCache, RotatingKVCache

from sidecar.backend import heap
from sidecar.backend.cache_sizes import layer_sizes
from sidecar.engine import machine, memory
from sidecar.engine.admission import STEP, Held, Layer, Ledger, Media
from sidecar.engine.embeddings import Passes
from sidecar.engine.messages import Tier
from sidecar.engine.patience import BATCH, CHAT, TENURE, Patience
from sidecar.engine.prefix_cache import PrefixCache
from sidecar.engine.room import EVERY, LEAST_PIECE, PATIENCE, PLENTY, Room

KIB = 1024
FULL = Layer(per_token=144 * KIB)  # Qwen3-VL-4B, all layers together
GIB = 1 << 30


def held(number: int, tokens: int, *, batch: bool = False) -> Held:
    return Held(id=number, tokens=tokens, batch=batch, since=float(number))


def test_a_chat_without_a_limit_needs_its_prompt_and_a_step() -> None:
    ledger = Ledger(lambda: 6 * GIB, [FULL])
    assert ledger.need(2000, []) == (2000 + STEP) * 144 * KIB
    assert ledger.need(200_000, []) > ledger.room([]), "27 GiB don't go into 6"


def test_rows_join_only_where_there_is_room_to_pad_them() -> None:
    """A chat of 1,337 tokens and a job of 340 took 60 MB more in one pass, of 73 that were left, and old buffers."""
    free = [0]
    ledger = Ledger(lambda: free[0], [FULL])
    assert ledger.join(1, 1536, 1, 512) == ledger.row(1024)
    assert ledger.join(2, 256, 3, 1024) == 2 * ledger.row(768)
    assert ledger.need(4, [held(1, 20_000)]) == ledger.row(4 + STEP), "short ones wait for no padding"
    room = Room(ledger, PrefixCache(0), most=GIB)
    rows = [
        Held(id=1, tokens=1337, batch=False, has=1536, longest=1337),
        Held(id=2, tokens=340, batch=True, has=512, longest=340),
    ]
    assert not room.may_join(1, 1536, 1, 512, rows)
    assert room.may_join(1, 512, 1, 512, rows), "that takes nothing"
    free[0] = int(ledger.row(1024))
    assert room.may_join(1, 1536, 1, 512, rows)
    assert not room.may_join(1, 1536, 1, 512, [*rows, Held(id=3, tokens=100, batch=False, has=0)]), "it is another's"


def test_a_picture_needs_what_its_vision_tower_holds() -> None:
    """208 KB of PNG are 50 million pixels: the text of such a prompt is short, the work on it is not."""
    ledger = Ledger(lambda: GIB, [FULL], value=100.0)
    chat, page = [held(1, 100)], 13 << 20
    assert ledger.fits(100, chat, 0, before_batch=False)
    assert not ledger.fits(100, chat, 0, before_batch=False, media=Media(pictures=page)), (
        "1.3 GB are guessed, and it waits"
    )
    assert ledger.fits(100, [], 0, before_batch=False, media=Media(pictures=page)), "a guess refuses nothing"
    ledger.learn_media(Media(pictures=1 << 20), 272 << 20)
    ledger.learn_media(Media(pictures=1 << 10), 900 << 20)
    assert ledger.work(Media(pictures=2 << 20), []) == 544 << 20, "what the largest one took tells, not the smallest"
    assert not ledger.fits(100, [], 0, before_batch=False, media=Media(pictures=page)), "3.4 GB are known"
    rows = [held(1, 100), held(2, 200, batch=True)]
    roomy = Ledger(lambda: 200 << 20, [FULL], value=300.0)
    assert roomy.make_way(100, rows, Media(pictures=1 << 20)) == [2]
    assert roomy.make_way(100, rows) == []


def test_kept_prefixes_go_before_what_towers_gave_and_both_before_anybody_waits() -> None:
    """Features of pictures were counted nowhere, up to 256 MB of them, and never given up."""

    class Features:
        size = 50 << 20

        def shrink(self, limit: int) -> None:
            self.size = limit

    free = [0]
    room = Room(Ledger(lambda: free[0], [Layer(per_token=1 << 20)]), PrefixCache(0), most=GIB)
    room.features = features = Features()
    rows = [Held(id=n, tokens=200, batch=False, since=float(n), has=200) for n in (1, 2)]
    free[0] = 80 << 20  # they grow by 56 MiB each
    assert room.relieve(rows) == []
    assert features.size == 50 - 32 << 20
    free[0] = 0
    assert room.relieve(rows) == [2]
    assert features.size == 0


def test_a_prompt_goes_in_pieces_whose_passes_fit() -> None:
    """1.5 GiB are free and a pass over 20,000 tokens would hold 2: in a bounded group the kernel killed the engine."""
    ledger = Ledger(lambda: 4 * GIB, [FULL])
    room = Room(ledger, PrefixCache(0), most=GIB, a_pass=100 * KIB)
    prompt = Held(id=1, tokens=20_000, batch=False, has=0)
    assert room.piece(2000, 1, [replace(prompt, tokens=2000)]) == 2000
    small = room.piece(20_000, 1, [prompt])
    assert ledger.row(20_000) + small * 100 * KIB <= 4 * GIB + memory.RESERVE
    assert 2000 < small < 20_000
    two = [prompt, replace(prompt, id=2)]
    assert room.piece(20_000, 2, two) == LEAST_PIECE, "the caches alone don't fit: it goes on all the same"
    room.learn_pass(500, 500 * 400 * KIB)
    room.learn_pass(100, 1)
    assert room.piece(20_000, 1, [prompt]) == pytest.approx(small / 4, rel=0.01)


def test_what_is_left_of_a_begun_prompt_is_nobody_elses() -> None:
    """Of 20,000 tokens 500 are processed: the memory of the others looks free, and is not."""
    ledger = Ledger(lambda: 4 * GIB, [FULL])
    begun = Held(id=1, tokens=20_000, batch=False, has=500)
    assert ledger.fits(10_000, [replace(begun, has=20_000)], 0, before_batch=False)
    assert not ledger.fits(10_000, [begun], 0, before_batch=False)


def test_a_row_grows_with_the_longest_of_its_pass() -> None:
    ledger = Ledger(lambda: 0, [FULL])
    short = Held(id=2, tokens=40, batch=True, has=1024, longest=1000)
    assert ledger.growth([short]) == ledger.row(256)
    assert ledger.growth([replace(short, has=1280)]) == 0
    assert ledger.growth([replace(short, has=256, longest=40)]) == 0
    assert ledger.set_aside(1, [held(1, 10), short, held(3, 10)]) == [2]


@settings(deadline=None)  # a busy machine's
@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 9)), max_size=6), st.integers(1, 5000))
def test_who_begins_is_not_put_back_for_what_was_known(drawn: list[tuple[int, int]], tokens: int) -> None:
    running = [Held(id=i, tokens=n, batch=False, has=n + 256 * more) for i, (n, more) in enumerate(drawn)]
    need = Ledger(lambda: 0, [FULL]).need(tokens, running)
    ledger = Ledger(lambda: int(need + Ledger(lambda: 0, [FULL]).growth(running)) + 1, [FULL])
    assert ledger.fits(tokens, running, 0, before_batch=False)
    assert ledger.room([*running, Held(id=9, tokens=tokens, batch=False, has=0)]) >= 0


def test_room_that_is_short_is_looked_at_before_every_unit() -> None:
    """At every sixteenth step, 50 MB were missing between two looks, and the next join was the engine's last."""
    free = [2 * PLENTY]
    room = Room(Ledger(lambda: free[0], [FULL]), PrefixCache(0), most=GIB)
    rows = [Held(id=n, tokens=200, batch=False, since=float(n), has=256) for n in (1, 2)]
    looks = list[list[int]]()
    for left in (2 * PLENTY, 2 * PLENTY, *[int(-FULL.per_token * 200)] * EVERY):
        free[0] = left
        looks.append(room.relieve(rows))
    assert sum(map(bool, looks)) == 1 if not looks[-1] else looks[-1] == [2]
    free[0] = PLENTY // 2
    assert [room.relieve(rows) for _ in range(3)] == [[], [], []]
    free[0] = int(-FULL.per_token * 100)
    assert room.relieve(rows) == [], "a little that others took since"
    free[0] = int(-FULL.per_token * 200)
    assert room.relieve(rows) == [2]


def _request(number: int, tier: Tier, arrived: float, resumed: tuple[int, ...] = ()) -> Any:
    return SimpleNamespace(id=number, tier=tier, arrived=arrived, resumed=resumed)


def test_nobody_waits_for_memory_without_end() -> None:
    """A job of 1,434 tokens saw the short chats of seven clients go by until its client gave up after 300 s."""
    now = [0.0]
    patience = Patience(lambda: now[0])
    job, old = _request(1, Tier.BATCH, 0), _request(2, Tier.INTERACTIVE, 0)
    later, back = _request(3, Tier.INTERACTIVE, 5), _request(4, Tier.INTERACTIVE, 1, resumed=(7,))
    assert patience.held_back([job, later], {3}) == set()
    now[0] = BATCH - 1
    assert patience.held_back([job, later, back], {3, 4}) == set()
    now[0] = BATCH
    assert patience.held_back([job, later, back], {3, 4}) == {3}, "who was begun before goes on"
    assert patience.held_back([later, back], {3, 4}) == set(), "batch work rests"
    assert patience.held_back([job, later, back], {1, 3, 4}) == set(), "there is room for it"
    patience = Patience(lambda: now[0])
    patience.held_back([old, later, job], {1, 3})
    now[0] += CHAT
    assert patience.held_back([old, later, back, job], {1, 3, 4}) == {1, 3, 4}
    assert patience.held_back([old, later, _request(5, Tier.INTERACTIVE, -1)], {3, 5}) == {3}


def test_a_job_that_is_late_keeps_its_room_for_a_while() -> None:
    """One was set aside for chat after chat: its prompt was processed five times for five tokens."""
    now = [0.0]
    patience = Patience(lambda: now[0])
    job, chat = _request(1, Tier.BATCH, 0), _request(2, Tier.INTERACTIVE, 0)
    patience.held_back([job], {1})
    now[0] = BATCH - 1
    assert not patience.lasts(job, row=True)
    now[0] = BATCH
    assert not patience.lasts(chat, row=True), "chats need no tenure"
    assert patience.lasts(job, row=False)
    now[0] += 100
    assert patience.lasts(job, row=True), "its prompt took long"
    now[0] += TENURE - 1
    assert patience.lasts(job, row=True)
    now[0] += 1
    assert not patience.lasts(job, row=True)
    now[0] += BATCH - 1
    assert not patience.lasts(job, row=False)
    now[0] += 1
    assert patience.lasts(job, row=False), "it is late again"
    ledger = Ledger(lambda: 0, [FULL])
    rows = [held(1, 1000, batch=True), held(2, 1000)]
    assert ledger.make_way(500, rows) == [1]
    rows[0] = replace(rows[0], lasts=True)
    assert ledger.make_way(500, rows) == []
    assert ledger.set_aside(1, rows) == [2], "the latest of those that last"


MAPPED = """
import ctypes
import mlx.core as mx
from sidecar.backend import heap

class Info(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in "abcdhefgij")

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
made = []

def mapped():
    return int(libc.mallinfo2().h)

def make():
    before = mapped()
    with heap.exact():
        made.append(mx.zeros((1 << 20,)) + len(made))
        mx.eval(made)
    return mapped() - before

heap.keep_freed(64 << 20)
print(make())
heap.mind(short=True)
print(make())
before = mapped()
made.pop()
mx.clear_cache()
print(before - mapped())
print(heap.at_once())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_caches_come_from_the_system_and_go_back_whole_where_memory_is_short() -> None:
    """In the C library's own memory a joined cache finds no hole: what MLX counts and what the process has differ.

    In a process of its own: one that other tests ran in has holes.
    """
    run = subprocess.run([sys.executable, "-c", MAPPED], capture_output=True, text=True, timeout=60, check=True)
    usual, short, returned, at_once = map(int, run.stdout.split())
    assert usual == 0
    assert short >= 4 << 20
    assert returned >= 4 << 20
    assert at_once <= 8 << 20


def test_where_memory_is_short_mlx_keeps_no_freed_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It kept a sixteenth of a group's memory, the old buffers of joined caches, which nobody saw and nobody had."""
    left = [GIB]
    monkeypatch.setattr(machine, "bounded", lambda: True)
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(GIB, left[0]))
    kept: list[int] = []
    for part in (4 * GIB // 5, GIB // 5, GIB // 5, 4 * GIB // 5):
        left[0] = part
        memory.look(time.monotonic())
        made = mx.zeros((1 << 20,)) + 1
        mx.eval(made)
        del made
        kept.append(mx.get_cache_memory() >> 20)
    assert [size >= 4 for size in kept] == [True, False, False, True], kept


def test_who_runs_alone_may_use_what_is_kept_for_company() -> None:
    ledger = Ledger(lambda: 0, [FULL], alone=lambda: GIB)
    assert ledger.fits(2000, [], 0, before_batch=False)
    assert not ledger.fits(2000, [held(1, 100)], 0, before_batch=False)
    assert ledger.fits(2000, [held(1, 100, batch=True)], 0, before_batch=True), "it will be alone"


def test_nobody_is_refused_for_what_others_hold_for_a_moment() -> None:
    free, now, given_up = [0], [0.0], []
    room = Room(Ledger(lambda: free[0], [FULL]), PrefixCache(0), most=GIB, clock=lambda: now[0])
    sent: dict[int, list[Any]] = {}

    def asked(number: int, tokens: int) -> Any:
        request = SimpleNamespace(prompt=SimpleNamespace(tokens=[0] * tokens, numbers=Media()), resumed=(), id=number)
        request.tier, request.sink = Tier.INTERACTIVE, sent.setdefault(number, []).extend
        return request

    waiting = {1: asked(1, 1000), 2: asked(2, 100_000)}
    room.refuse_what_never_fits(waiting, lambda: given_up.append(1))
    assert sent[2][0].status == 400, "it never will fit"
    assert list(waiting) == [1]
    now[0] = PATIENCE - 0.1
    room.refuse_what_never_fits(waiting, lambda: given_up.append(2))
    assert list(waiting) == [1]
    free[0] = GIB  # a picture was decoded, and its pixels are gone
    room.refuse_what_never_fits(waiting, lambda: given_up.append(3))
    free[0] = 0
    now[0] = PATIENCE + 1
    room.refuse_what_never_fits(waiting, lambda: given_up.append(4))
    assert list(waiting) == [1], "its time begins anew"
    now[0] += PATIENCE
    room.refuse_what_never_fits(waiting, lambda: given_up.append(5))
    assert sent[1][0].status == 503
    assert given_up == [1, 4]


def test_a_row_is_kept_only_where_its_copies_fit() -> None:
    prefixes, free = PrefixCache(GIB), [0]
    ledger = Ledger(lambda: free[0], [FULL])
    Room(ledger, prefixes, most=GIB)
    free[0] = int(2 * ledger.row(1000))
    assert prefixes.affords(1000)
    assert not prefixes.affords(1001)


def test_a_row_that_nobody_goes_on_with_is_kept_without_a_copy() -> None:
    """In a group that was nearly full long rows were never kept, for want of room for two copies of them."""
    prefixes, key = PrefixCache(GIB), tuple(range(20))
    prefixes.affords = lambda tokens: False
    rows: Any = BatchKVCache([0])
    rows.update_and_fetch(mx.ones((1, 2, 20, 4)), mx.ones((1, 2, 20, 4)))
    prefixes.store(key, [rows], 0, Tier.INTERACTIVE)
    assert not len(prefixes)
    prefixes.store(key, [rows], 0, Tier.INTERACTIVE, given_up=True)
    found = prefixes.lookup((*key, 7))
    assert found is not None
    assert found[1] == 20
    assert found[0][0].keys.shape == (1, 2, 20, 4)
    two: Any = BatchKVCache([0, 3])
    two.update_and_fetch(mx.ones((2, 2, 20, 4)), mx.ones((2, 2, 20, 4)))
    prefixes.clear()
    prefixes.store(key, [two], 1, Tier.INTERACTIVE, given_up=True)
    assert not len(prefixes), "it is padded, and another's is beside it"


def test_room_that_is_less_than_nothing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reserve was in use, and what was free seemed to be just nothing: kept prefixes stayed, to the last byte."""
    monkeypatch.setattr(machine, "bounded", lambda: True)
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(GIB, 16 << 20))
    assert memory.kv_limit() < -(20 << 20)
    assert memory.kv_most() == 0


def test_a_picture_that_is_looked_at_has_its_claim_and_stays() -> None:
    ledger = Ledger(lambda: 0, [FULL])
    rows = [held(1, 100), replace(held(2, 1000, batch=True), has=0, fixed=True), held(3, 100)]
    assert ledger.growth(rows[1:2]) == ledger.row(5 * 256)
    assert ledger.make_way(100, rows) == []
    assert ledger.set_aside(1e12, rows) == [3, 1]


def test_windows_and_recurrent_layers_don_t_grow() -> None:
    ledger = Ledger(lambda: 0, [Layer(per_token=10, window=100), Layer(fixed=5000)])
    assert ledger.row(50) == 5500
    assert ledger.row(100_000) == 6000


def test_batch_rows_go_first_the_latest_first_and_one_row_stays() -> None:
    ledger = Ledger(lambda: 0, [FULL])
    rows = [held(1, 100), held(2, 100, batch=True), held(3, 100, batch=True), held(4, 100)]
    one = ledger.row(STEP)  # its 100 tokens, and what it would have grown by
    assert ledger.set_aside(0, rows) == []
    assert ledger.set_aside(one * 0.5, rows) == [3]
    assert ledger.set_aside(one * 1.5, rows) == [3, 2]
    assert ledger.set_aside(one * 9, rows) == [3, 2, 4]


def test_a_chat_goes_before_batch_rows_and_takes_no_more_than_it_needs() -> None:
    rows = [held(1, 5000, batch=True), held(2, 5000, batch=True), held(3, 100)]
    ledger = Ledger(lambda: int(1000 * FULL.per_token), [FULL])
    assert not ledger.fits(2000, rows, 0, before_batch=False)
    assert ledger.fits(2000, rows, 0, before_batch=True)
    assert ledger.make_way(2000, rows) == [2]
    assert not ledger.fits(200_000, rows, 0, before_batch=True)
    assert ledger.fits(2000, rows, 10_000 * FULL.per_token, before_batch=False), "kept prefixes are given up"


@settings(deadline=None)  # a busy machine's
@given(st.lists(st.tuples(st.integers(1, 5000), st.booleans()), min_size=1, max_size=8), st.floats(0, 1e10))
def test_setting_aside_frees_enough_or_all_it_may(drawn: list[tuple[int, bool]], missing: float) -> None:
    ledger = Ledger(lambda: 0, [FULL])
    rows = [held(i, n, batch=b) for i, (n, b) in enumerate(drawn)]
    gone = ledger.set_aside(missing, rows)

    def freed(without: list[int]) -> float:
        rest = [r for r in rows if r.id not in without]
        taken = sum(ledger.row(r.tokens) for r in rows if r.id in without)
        return taken + ledger.growth(rows) - ledger.growth(rest)

    if freed(gone) < missing:
        assert len(gone) == len(rows) - 1
    elif gone:
        assert freed(gone[:-1]) < missing, "one too many"


def test_sizes_are_read_off_each_kind_of_cache() -> None:
    keys = mx.zeros((2, 4, 20, 16), dtype=mx.float16)
    full: Any = KVCache()
    window: Any = RotatingKVCache(max_size=64)
    state: Any = ArraysCache(2)
    for cache in (full, window):
        cache.update_and_fetch(keys, keys)
    state[0] = mx.zeros((2, 500), dtype=mx.float32)
    state[1] = mx.zeros((2, 1500), dtype=mx.float32)
    sizes = layer_sizes([full, window, state], 2)
    a_token = 2.0 * 4 * 16 * 2
    assert sizes == [(0.0, a_token, 0), (0.0, a_token, 64), (8000.0, 0.0, 0)]


@pytest.mark.parametrize("refused", [False, True])
def test_on_metal_the_recommended_working_set_is_wired(monkeypatch: pytest.MonkeyPatch, refused: bool) -> None:
    """With a made-up GPU: this was not run on a Mac. One that refuses (macOS before 15) stops no load."""
    wired: list[int] = []

    def wire(size: int) -> int:
        if refused:
            raise RuntimeError("[metal::set_wired_limit] Setting a wired limit is not supported")
        wired.append(size)
        return 0

    monkeypatch.setattr(memory, "_set", False)
    monkeypatch.setattr(heap, "keep_freed", lambda size: None)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda *_: {"max_recommended_working_set_size": 11 << 30})
    monkeypatch.setattr(mx, "set_wired_limit", wire)
    monkeypatch.setattr(mx, "set_memory_limit", lambda size: None)
    monkeypatch.setattr(mx, "set_cache_limit", lambda size: None)
    memory.set_limits()
    assert wired == ([] if refused else [11 << 30])


def test_as_many_texts_are_embedded_at_once_as_fit() -> None:
    """Eight long texts at once held 60 MB beside chats for whom the last of a group's memory was counted."""
    free = [1 << 40]
    passes = Passes(lambda: free[0])
    model: Any = SimpleNamespace(path=Path("m"), context=512, config={}, tokenizer=_tokens, ranks=False)
    texts = ["a " * 100, "b " * 10, "c " * 100, "d"]
    assert passes.rows(model, texts) == 4
    free[0] = memory.RESERVE // 4 + 250 * (64 << 10)  # 250 tokens at the least that is guessed for one
    assert passes.rows(model, texts) == 2
    assert passes.rows(model, texts[1:2] * 4) == 4
    free[0] = 0
    assert passes.rows(model, texts) == 1, "it goes on all the same"
    passes.learn(model, 1000, 1000 * (1 << 10))
    passes.learn(model, 10, 1 << 30)
    free[0] = memory.RESERVE // 4 + 450 * (1 << 10)
    assert passes.rows(model, texts) == 4, "what the longest pass held tells, not the shortest"


def _tokens(texts: list[str]) -> dict[str, list[list[int]]]:
    return {"input_ids": [[0] * len(text.split()) for text in texts]}
