"""Pulls against a hub that misbehaves: every case ends in the right state with a clear message."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from host_api.protocol.lock import FileLock
from sidecar.models.downloads import Effort, HubFile, Progress, PullError, selection, transfer
from sidecar.models.downloads import hub as hub_api
from sidecar.models.downloads.hub import Endpoint
from sidecar.models.downloads.pull import pull
from sidecar.models.downloads.store import BeingPulled, Store, digest_matches, is_whole
from tests.support.fake_hub import COMMIT, FakeHub, Fault
from tests.support.pulls import QUICK, fetch

WEIGHTS = "model.safetensors"


def tiny(size: int = 3_000_000) -> dict[str, bytes | Path]:
    """Files of a model that is only to be fetched."""
    return {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}" * 50,
        "README.md": b"about",
        "pytorch_model.bin": b"the same again",
        "onnx/model.onnx": b"and again",
        WEIGHTS: random.Random(1).randbytes(size),
    }


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(tiny()) as one:
        yield one


def check_whole(hub: FakeHub, cache: Path) -> None:
    """The snapshot is there, linked, whole and right, and nothing unfinished lies beside it."""
    store = Store(cache, hub.hub_id)
    snapshot = store.snapshot()
    assert snapshot == store.root / "snapshots" / COMMIT
    names = {p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*")}
    assert names == {"config.json", "tokenizer.json", WEIGHTS}
    for name in names:
        content = hub.files[name]
        assert (snapshot / name).read_bytes() == (content.read_bytes() if isinstance(content, Path) else content)
        assert (snapshot / name).resolve().name == hub.etag(name)
    assert not list(store.root.rglob("*.incomplete"))
    assert not store.note.exists()


def test_a_pull_takes_what_is_needed_and_other_tools_find_it(hub: FakeHub, tmp_path: Path) -> None:
    told = fetch(hub, tmp_path)
    check_whole(hub, tmp_path)
    fetched = {s.path.rpartition("/")[2] for s in hub.seen if s.host == "hub" and "/resolve/" in s.path}
    assert fetched == {"config.json", "tokenizer.json", WEIGHTS}
    first = next(p for p in told if p.total)
    assert first.completed == 0
    assert first.total == sum(hub.size(n) for n in fetched)
    assert told[-1].status == "success"
    assert told[-1].completed == told[-1].total
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    assert try_to_load_from_cache(hub.hub_id, WEIGHTS, cache_dir=tmp_path)
    assert {r.repo_id for r in scan_cache_dir(tmp_path).repos} == {hub.hub_id}
    before = hub.sent()
    fetch(hub, tmp_path)
    assert hub.sent() == before, "what is there is not fetched again"


def test_dropped_connections_go_on_where_they_stopped(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = [Fault("drop", at=900_000, path=WEIGHTS), Fault("drop", at=700_000, path=WEIGHTS)]
    told = fetch(hub, tmp_path)
    check_whole(hub, tmp_path)
    assert hub.sent() < 1.1 * hub.total
    assert sum(p.status == "retrying" for p in told) == 2
    assert [s.range for s in hub.seen if s.host == "cdn"][1:] != [None, None]


def test_a_stall_is_noticed(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = [Fault("stall", at=400_000, path=WEIGHTS)]
    told = fetch(hub, tmp_path)
    check_whole(hub, tmp_path)
    assert any("nothing came for 0.5 s" in (p.message or "") for p in told)


def test_a_hub_that_never_answers_is_given_up_and_what_came_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = [Fault("drop", at=900_000, path=WEIGHTS), Fault("drop", times=99, at=0, path=WEIGHTS)]
    with pytest.raises(PullError, match=r"could not be fetched.*900 kB of it are kept: pull again") as caught:
        fetch(hub, tmp_path)
    assert caught.value.code == "unreachable"
    assert Store(tmp_path, hub.hub_id).snapshot() is None
    hub.faults = []
    before = hub.sent()
    fetch(hub, tmp_path)
    check_whole(hub, tmp_path)
    assert hub.sent() - before <= hub.size(WEIGHTS) - 900_000


def test_a_wrong_hash_is_fetched_again_once(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = [Fault("corrupt", path=WEIGHTS)]
    fetch(hub, tmp_path)
    check_whole(hub, tmp_path)


@pytest.mark.parametrize("path", [WEIGHTS, "tokenizer.json"])
def test_a_hash_wrong_twice_is_refused(hub: FakeHub, tmp_path: Path, path: str) -> None:
    hub.faults = [Fault("corrupt", times=9, path=path)]
    with pytest.raises(PullError, match="came wrong twice") as caught:
        fetch(hub, tmp_path)
    assert caught.value.code == "damaged"
    store = Store(tmp_path, hub.hub_id)
    assert store.snapshot() is None
    assert not list(store.root.rglob("*.incomplete"))


@pytest.mark.parametrize("at", [0, 500_000])
def test_a_file_that_grew_is_refused(hub: FakeHub, tmp_path: Path, at: int) -> None:
    hub.faults = [Fault("drop", at=at, path=WEIGHTS)] if at else []
    hub.faults += [Fault("grow", times=9, path=WEIGHTS)]
    with pytest.raises(PullError, match=r"came wrong twice .the hub sends 3001000 bytes and said 3000000"):
        fetch(hub, tmp_path)


def test_a_hub_without_ranges_sends_all_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = [Fault("drop", at=900_000, path=WEIGHTS), Fault("ignore_range", path=WEIGHTS)]
    fetch(hub, tmp_path)
    check_whole(hub, tmp_path)


@pytest.mark.parametrize("where", ["api", "tokenizer.json", WEIGHTS])
@pytest.mark.parametrize("status", [429, 503])
def test_busy_hubs_are_waited_for(hub: FakeHub, tmp_path: Path, where: str, status: int) -> None:
    hub.faults = [Fault("status", times=2, status=status, headers={"Retry-After": "0.05"}, path=where)]
    fetch(hub, tmp_path)
    check_whole(hub, tmp_path)


def test_a_hub_that_stays_busy_says_so(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = [Fault("status", times=99, status=429, path="api")]
    with pytest.raises(PullError, match=r"too many requests \(429\)") as caught:
        fetch(hub, tmp_path)
    assert (caught.value.code, caught.value.status) == ("busy", 503)


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [(401, "not_found", "HF_TOKEN"), (403, "unauthorized", "Check your token"), (404, "not_found", "Check the name")],
)
def test_refusals_are_final_and_clear(hub: FakeHub, tmp_path: Path, status: int, code: str, text: str) -> None:
    hub.faults = [Fault("status", times=99, status=status, path="api")]
    with pytest.raises(PullError, match=text) as caught:
        fetch(hub, tmp_path)
    assert caught.value.code == code
    assert len(hub.seen) == 1, "asking again would change nothing"
    hub.faults = [Fault("status", times=99, status=status, path=WEIGHTS)]
    with pytest.raises(PullError, match=text):
        fetch(hub, tmp_path)
    assert Store(tmp_path, hub.hub_id).snapshot() is None


def test_gated_models_need_the_token_and_it_goes_to_the_hub_alone(hub: FakeHub, tmp_path: Path) -> None:
    hub.token, hub.gated = "hf_secret", True
    with pytest.raises(PullError, match=r"is gated: ask for access .*HF_TOKEN") as caught:
        fetch(hub, tmp_path)
    assert caught.value.code == "gated"
    hub.seen.clear()
    fetch(hub, tmp_path, token="hf_secret")
    check_whole(hub, tmp_path)
    assert {s.authorization for s in hub.seen if s.host == "hub"} == {"Bearer hf_secret"}
    assert {s.authorization for s in hub.seen if s.host == "cdn"} == {None}


def test_a_mirror_takes_over_mid_file_and_gets_no_token(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = [Fault("drop", at=900_000, path=WEIGHTS), Fault("status", times=99, path=WEIGHTS)]
    with FakeHub(tiny()) as mirror:
        fetch(hub, tmp_path, mirror, token="hf_secret")
        check_whole(hub, tmp_path)
        assert {s.authorization for s in mirror.seen} == {None}
        assert [s.range for s in mirror.seen if s.host == "cdn"] == ["bytes=900000-"]


def test_a_mirror_answers_for_a_hub_that_is_down(hub: FakeHub, tmp_path: Path) -> None:
    told: list[Progress] = []
    ends = [Endpoint("http://127.0.0.1:9"), Endpoint(hub.url)]
    asyncio.run(pull(hub.hub_id, cache=tmp_path, report=told.append, endpoints=ends, effort=QUICK))
    check_whole(hub, tmp_path)


def test_a_full_disk_is_known_before_the_first_byte(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(PullError, match=r"1\.1 GB free; 3\.0 MB are to be fetched and 1\.1 GB stay free") as caught:
        fetch(hub, tmp_path, free=lambda _: selection.HEADROOM + 2_000_000)
    assert caught.value.code == "disk_full"
    assert hub.sent() == 0


def test_cancelling_keeps_what_came(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = [Fault("stall", at=1_200_000, path=WEIGHTS)]
    told: list[Progress] = []

    async def scene() -> None:
        work = asyncio.create_task(
            pull(hub.hub_id, cache=tmp_path, report=told.append, endpoints=[Endpoint(hub.url)], effort=Effort())
        )
        while sum(p.stat().st_size for p in tmp_path.rglob("*.incomplete")) < 1_200_000:
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(scene())
    assert told[-1].status == "cancelled"
    hub.faults = []
    before = hub.sent()
    fetch(hub, tmp_path)
    check_whole(hub, tmp_path)
    assert hub.sent() - before <= hub.size(WEIGHTS) - 1_200_000


def test_a_pull_that_is_left_holds_its_lock_until_its_check_has_ended(hub: FakeHub, tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slowly(path: Path, file: HubFile, each: Callable[[int], None]) -> bool:
        entered.set()
        go_on.wait(20)
        return digest_matches(path, file, each)

    async def scene() -> None:
        ends = [Endpoint(hub.url)]
        work = asyncio.create_task(
            pull(hub.hub_id, cache=tmp_path, report=lambda _: None, endpoints=ends, effort=QUICK)
        )
        await asyncio.to_thread(entered.wait, 20)
        for _ in range(2):
            work.cancel()
            await asyncio.sleep(0.05)
        assert not work.done()
        with pytest.raises(BeingPulled):
            Store(tmp_path, hub.hub_id).remove()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await work

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "digest_matches", slowly)
        asyncio.run(scene())
    store = Store(tmp_path, hub.hub_id)
    assert store.remove()
    assert not store.root.exists()
    fetch(hub, tmp_path)
    check_whole(hub, tmp_path)


def test_two_processes_share_a_pull_and_the_second_sees_how_far_it_is(hub: FakeHub, tmp_path: Path) -> None:
    hub.rate = 8e5
    told: list[Progress] = []
    store = Store(tmp_path, hub.hub_id)

    async def scene() -> None:
        ends = [Endpoint(hub.url)]
        options: Any = {"cache": tmp_path, "endpoints": ends, "effort": QUICK}
        first = asyncio.create_task(pull(hub.hub_id, report=lambda _: None, **options))
        while not (store.read_note() or {}).get("total"):
            await asyncio.sleep(0.01)
        leaves = asyncio.create_task(pull(hub.hub_id, report=lambda _: None, **options))
        second = asyncio.create_task(pull(hub.hub_id, report=told.append, **options))
        await asyncio.sleep(0.4)
        leaves.cancel()
        await asyncio.sleep(0.2)
        assert store.read_note() is not None, "who only waited takes nothing away"
        hub.rate = 0
        await asyncio.gather(first, second)

    asyncio.run(scene())
    check_whole(hub, tmp_path)
    assert any(p.status == "waiting" and p.total for p in told)
    assert told[-1].status == "success"
    assert hub.sent() <= hub.total


def test_a_broken_update_leaves_the_old_model_in_force(hub: FakeHub, tmp_path: Path) -> None:
    fetch(hub, tmp_path)
    store = Store(tmp_path, hub.hub_id)
    old = store.snapshot()
    import tests.support.fake_hub as module

    with pytest.MonkeyPatch.context() as patch, FakeHub(tiny(2_000_000)) as newer:
        patch.setattr(module, "COMMIT", "f" * 40)
        newer.faults = [Fault("status", times=99, status=403, path=WEIGHTS)]
        with pytest.raises(PullError):
            fetch(newer, tmp_path)
        assert store.snapshot() == old
        newer.faults = []
        fetch(newer, tmp_path)
    assert store.snapshot() == store.root / "snapshots" / ("f" * 40)


@pytest.mark.timeout(120)
def test_killed_at_random_bytes_it_arrives_whole(tmp_path: Path) -> None:
    """The small form of ``make pull-chaos``: real processes, SIGKILL, 64 MB."""
    from tools.stress.pull_chaos import chaos

    figures = chaos(tmp_path, megabytes=64, kills=4, seed=3)
    assert figures["whole"]
    assert figures["fetched"] <= 1.2
    assert figures["kills"] == 4


def test_only_whole_models_count(tmp_path: Path) -> None:
    def put(name: str, text: str = "{}") -> None:
        (tmp_path / name).write_text(text)

    assert not is_whole(tmp_path)
    put("config.json")
    assert not is_whole(tmp_path)
    put("model-00001-of-00002.safetensors")
    assert not is_whole(tmp_path)
    put("model-00002-of-00002.safetensors")
    assert is_whole(tmp_path)
    put("model.safetensors.index.json", json.dumps({"weight_map": {"a": "other.safetensors"}}))
    assert not is_whole(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(PullError):
        selection.needed([HubFile(path=name, size=1, git_sha1="0")])


def test_the_selection() -> None:
    names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors",
        "consolidated.safetensors",
        "1_Pooling/config.json",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "LICENSE",
        "README.md",
        "x.gguf",
        "original/params.json",
        ".gitattributes",
        "modeling.py",
    ]
    files = [HubFile(path=n, size=1, git_sha1="0") for n in names]
    kept = [f.path for f in selection.needed(files)]
    assert set(kept) == set(names[:3]) | set(names[5:10])
    assert kept[-2:] == names[1:3], "weights come last"
    with pytest.raises(PullError, match=r"import FILE\.gguf"):
        selection.needed([HubFile(path="x.gguf", size=1, git_sha1="0")])


def test_importing_the_command_line_brings_no_hub_library() -> None:
    code = (
        "import sys, sidecar.models.downloads.manager, sidecar.models.registry; print('huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_the_hub_is_the_one_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.test/")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    ends = hub_api.endpoints(("https://mirror.test", "https://hub.test"))
    assert [(e.url, e.token) for e in ends] == [("https://hub.test", "hf_x"), ("https://mirror.test", None)]


def test_a_model_is_not_deleted_under_a_pull_that_has_begun(hub: FakeHub, tmp_path: Path) -> None:
    """Between the look whether it is pulled and the deletion a pull began, and lost the folders it had made."""
    store = Store(tmp_path, hub.hub_id)
    store.prepare()
    pulling = FileLock(store.lock)
    assert pulling.try_exclusive()
    with pytest.raises(BeingPulled, match=hub.hub_id):
        store.remove()
    assert (store.root / "blobs").is_dir()
    pulling.close()
    store.remove()
    assert not store.root.exists()
