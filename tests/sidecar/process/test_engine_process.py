"""The engine process under faults: answers go on, one owner at a time, nothing is left behind."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from host_api.protocol.lock import held
from tests.support.servers import Sidecar, sidecar, wait_for
from tools.stress import engine_chaos, leavers

LISTENER = 60_000_000
"""Bytes that the listener may have where there is no engine."""


def engine_of(running: Sidecar) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{running.url}/health", timeout=30).json()["engine"]
    return found


def resident(pid: int) -> int:
    """Return the resident bytes of a process, without a BLAS that the tests preload for the engine's sake."""
    found, counts = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            counts = "blas" not in line
        elif name == "Rss:" and counts:
            found += int(rest[0]) * 1024
    return found


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_answers_of_all_kinds_go_on_when_the_engine_is_killed(tmp_path: Path, data_dir: Path) -> None:
    with engine_chaos.server(tmp_path, data_dir) as running:
        found = engine_chaos.run(running, kills=2, seed=11, patience=200, ways=("SIGKILL", "SIGABRT"))
        assert not found.wrong
        assert not found.left
        assert engine_of(running)["deaths"] == 2


def test_the_engine_owns_its_lock_and_ends_with_the_listener_however_that_goes(tmp_path: Path, data_dir: Path) -> None:
    with sidecar(tmp_path, data_dir=data_dir) as running, running.client() as http:
        body = {"model": "starter", "prompt": "hi", "max_tokens": 2}
        assert http.post("/v1/completions", json=body).status_code == 200
        lock = running.state_dir / "engine.lock"
        assert held(lock)
        children = psutil.Process(running.process.pid).children(recursive=True)
        assert engine_of(running)["pid"] in [c.pid for c in children]
        running.process.kill()
        running.process.wait(30)
        wait_for(lambda: all(gone(c.pid) for c in children), timeout=60)
        wait_for(lambda: not held(lock), timeout=60)  # its last thread may end after it


def test_the_last_model_unloaded_the_engine_leaves(tmp_path: Path, data_dir: Path) -> None:
    with sidecar(tmp_path, data_dir=data_dir) as running, running.client() as http:
        assert http.post("/v1/models/starter/load").status_code == 200
        first = engine_of(running)["pid"]
        assert http.post("/v1/models/starter/unload").status_code == 200
        wait_for(lambda: engine_of(running)["pid"] is None, timeout=60)
        wait_for(lambda: gone(first), timeout=60)
        assert resident(running.process.pid) < LISTENER, resident(running.process.pid)
        assert http.post("/v1/completions", json={"prompt": "hi", "max_tokens": 2}).status_code == 200
        assert engine_of(running)["deaths"] == 0


def test_clients_that_leave_kill_nothing(tmp_path: Path, data_dir: Path) -> None:
    """The small form of ``make leavers``: chats, pictures, embeddings, loads and pulls left at drawn moments."""
    with leavers.server(tmp_path, data_dir) as running:
        found = leavers.run(running, tries=120, seed=5)
        assert not found.wrong
        assert found.tries.total() == 120
        assert found.answered > 10, "some left in the middle of an answer"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process's limits can be set on Linux alone")
def test_an_allocation_that_fails_costs_no_answer_and_rules_nothing_out(tmp_path: Path, data_dir: Path) -> None:
    """The engine's address space ends where it is, under two answers; both go on in the next engine."""
    with sidecar(tmp_path, data_dir=data_dir) as running, running.client() as http:
        body = {"model": "starter", "prompt": ["Once upon a time", "The sea"], "max_tokens": 10, "temperature": 0}
        expected = http.post("/v1/completions", json=body).json()["choices"]
        can = http.get("/v1/models/starter").json()["can"]
        engine = engine_of(running)["pid"]
        resource.prlimit(engine, resource.RLIMIT_AS, (psutil.Process(engine).memory_info().vms, -1))
        for words in (500, 1500, 3000):  # until it must allocate more than it had kept
            longer = body | {"prompt": ["Once upon a time", "The sea", "word " * words]}
            choices = http.post("/v1/completions", json=longer).json()["choices"]
            assert choices[:2] == expected
            if engine_of(running)["deaths"]:
                break
        assert engine_of(running)["deaths"] == 1
        assert engine_of(running)["pid"] != engine
        assert http.get("/v1/models/starter").json()["can"] == can


def test_a_stuck_engine_is_ended_and_the_answer_comes(tmp_path: Path, data_dir: Path) -> None:
    with sidecar(tmp_path, "--stall-timeout", "20", data_dir=data_dir) as running, running.client() as http:
        body = {"model": "starter", "prompt": "Once upon a time", "max_tokens": 30, "temperature": 0}
        expected = http.post("/v1/completions", json=body).json()["choices"]
        os.kill(engine_of(running)["pid"], signal.SIGSTOP)
        assert http.post("/v1/completions", json=body).json()["choices"] == expected
        assert "one piece of work" in engine_of(running)["last_deaths"][0]["reason"]
