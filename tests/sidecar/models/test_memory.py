"""A real server's memory: load, unload, swap, keep-alive, warm start, what doesn't fit."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.servers import Sidecar, sidecar, wait_for
from tools.stress import swap_storm

HELLO: list[dict[str, str]] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    found = swap_storm.folder_of_models(tmp_path_factory.mktemp("swap"), layers=2, hidden=64)
    (found / "minilm").symlink_to((model_dir / "minilm").resolve(), target_is_directory=True)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, data_dir: Path, folder: Path) -> Iterator[Sidecar]:
    with sidecar(tmp_path_factory.mktemp("server"), "--model-dir", str(folder), data_dir=data_dir) as running:
        yield running


def chat(name: str, **more: Any) -> dict[str, Any]:
    return {"model": name, "messages": HELLO, "max_tokens": 3, **more}


def test_unloading_gives_the_memory_back(http: httpx.Client, server: Sidecar) -> None:
    process = psutil.Process(server.process.pid)

    def resident() -> int:
        """Resident bytes of the server and its engine."""
        return sum(p.memory_info().rss for p in [process, *process.children()])

    def cycle() -> tuple[int, int]:
        """Resident bytes with the starter model in use, and after its unload."""
        loaded = http.post("/v1/models/starter/load")
        assert loaded.json()["loaded"], loaded.text
        http.post("/v1/chat/completions", json=chat("starter")).raise_for_status()
        during = resident()
        gone = http.post("/v1/models/starter/unload").json()
        assert not gone["loaded"]
        end = time.monotonic() + 30  # the engine leaves some seconds after its last model
        while process.children() and time.monotonic() < end:
            time.sleep(0.1)
        return during, resident()

    _, before = cycle()  # the first brings the libraries
    during, after = cycle()
    assert during > before + 300_000_000
    assert after <= 1.15 * before
    assert http.get("/health").json()["models"] == []


def test_swaps_under_traffic(server: Sidecar) -> None:
    figures = swap_storm.storm(server, rounds=10, seed=2, embedding="minilm")
    assert figures["unexpected"] == []
    assert figures["growth"] <= 0.15


def test_keep_alive_of_a_request(http: httpx.Client) -> None:
    http.post("/v1/chat/completions", json=chat("one", keep_alive="10m")).raise_for_status()
    state = http.get("/v1/models/one").json()
    assert 590 < state["unloads_in"] <= 600
    http.post("/v1/chat/completions", json=chat("one", keep_alive=-1)).raise_for_status()
    assert http.get("/v1/models/one").json()["unloads_in"] is None
    http.post("/v1/chat/completions", json=chat("one", keep_alive=0)).raise_for_status()
    wait_for(lambda: http.get("/health").json()["models"] == [])
    wrong = http.post("/v1/chat/completions", json=chat("one", keep_alive="soon"))
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "keep_alive")
    loaded = http.post("/v1/models/one/load", json={"keep_alive": "5m"}).json()
    assert 290 < loaded["unloads_in"] <= 300
    assert http.post("/v1/models/nothing/load").status_code == 404
    assert http.post("/v1/models/nothing/unload").status_code == 404


def test_what_does_not_fit_is_refused_with_numbers(tmp_path: Path, data_dir: Path, folder: Path) -> None:
    flags = ("--model-dir", str(folder), "--memory-limit-mb", "300")
    with sidecar(tmp_path, *flags, data_dir=data_dir) as running, running.client() as http:
        refused = http.post("/v1/chat/completions", json=chat("starter"))
        assert refused.status_code == 422, refused.text
        error = refused.json()["error"]
        assert error["code"] == "not_enough_memory"
        assert error["needed_bytes"] > 600_000_000 > error["available_bytes"]
        assert "needs about" in error["message"]
        assert http.post("/v1/chat/completions", json=chat("one")).status_code == 200


def test_the_last_model_is_loaded_at_start(tmp_path: Path, data_dir: Path, folder: Path) -> None:
    flags = ("--model-dir", str(folder))
    with sidecar(tmp_path, *flags, data_dir=data_dir) as running, running.client() as http:
        assert http.get("/health").json()["models"] == []
        http.post("/v1/chat/completions", json=chat("two")).raise_for_status()
        running.stop(signal.SIGKILL)
    note = json.loads((tmp_path / "state" / "last-model.json").read_text())
    assert note == {"model": "two", "starting": False}
    with sidecar(tmp_path, *flags, data_dir=data_dir) as running, running.client() as http:
        wait_for(lambda: http.get("/health").json()["models"] == ["two"], 60)
        http.post("/v1/models/two/unload").raise_for_status()
    assert not (tmp_path / "state" / "last-model.json").exists(), "who unloads a model wants none at the next start"
