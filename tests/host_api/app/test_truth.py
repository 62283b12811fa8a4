"""Nothing blocks the service, a restart says what it did, the stream of events tells what changed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from host_api.config import HostConfig
from host_api.host import SidecarHost
from tests.host_api.app.test_chat import PARIS, STORY, chat, chunks, text, user
from tests.host_api.app.test_chat import body as question
from tests.support.every_endpoint import Burst, asked_everything
from tests.support.host_servers import HostProcess, host
from tests.support.servers import wait_for


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[HostProcess]:
    """A host that these tests may disturb."""
    with host(tmp_path_factory.mktemp("truth"), "--max-answer", "200", data_dir=data_dir) as running:
        running.wait_seeded()
        yield running


READS = ("/status", "/tasks", "/chat/sessions", "/models", "/models/providers", "/models/capabilities")


def test_a_locked_database_stops_nothing_but_what_writes_to_it(mine: HostProcess) -> None:
    path = mine.folder / "data" / "host.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other, mine.client() as http:
        other.execute("BEGIN EXCLUSIVE")
        with asked_everything(mine) as burst:
            # Order of events: /health answered twenty times, and these have waited for the lock all along.
            assert {"POST /models/providers", "POST /tasks/tag", "POST /chat/agent-stream"} <= burst.pending
            for url in READS:
                assert http.get(url).status_code == 200, url
            burst.join(120)
        other.execute("ROLLBACK")
        writes = {n: burst.answers[n] for n in ("POST /models/providers", "POST /tasks/tag", "POST /chat/agent-stream")}
        assert set(writes.values()) == {503}, writes
        assert not {n: s for n, s in burst.answers.items() if s >= 500 and s not in (502, 503)}
        mine.wait_sidecar()
        tagged = http.post("/tasks/tag", json={"text": "Bread is baked at last."})
        assert tagged.status_code == 202
        wait_for(lambda: http.get(f"/tasks/{tagged.json()['id']}").json()["state"] == "done", 90)


def test_a_hung_sidecar_stops_nothing_else(mine: HostProcess) -> None:
    pid = mine.wait_sidecar()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with asked_everything(mine) as burst, mine.client() as http:
            assert {"POST /sidecar/restart", "GET /models/catalogue", "GET /status"} <= burst.pending
            for url in READS[1:]:
                assert http.get(url).status_code == 200, url
    finally:
        with contextlib.suppress(ProcessLookupError):  # what asked for a restart may have ended it
            os.kill(pid, signal.SIGCONT)
    burst.join(120)
    mine.wait_sidecar()


def test_a_hanging_disk_stops_nothing_else(mine: HostProcess) -> None:
    """Reading these files waits for ever: they are pipes that nobody writes to."""
    data = mine.folder / "data"
    with mine.client() as http:
        hanging = [data / "keys.json", data / "mcp.json", data / "pictures" / ("f" * 64)]
        before = {path: path.read_bytes() for path in hanging if path.exists()}
        (data / "pictures").mkdir(exist_ok=True)
        for path in hanging:
            path.unlink(missing_ok=True)
            os.mkfifo(path)
        try:
            with asked_everything(mine) as burst:
                other = Burst(mine, {"GET /chat/files/x": (f"/chat/files/{'f' * 64}", {})})
                for url in READS:
                    assert http.get(url).status_code == 200, url
                assert {"GET /mcp", "POST /models/providers"} <= burst.pending
                assert other.pending
        finally:
            _let_go(hanging, lambda: not (burst.pending or other.pending))
            for path in hanging:
                path.unlink(missing_ok=True)
                if path in before:
                    path.write_bytes(before[path])
                    path.chmod(0o600)
            for aside in data.glob("keys.json.damaged-*"):
                aside.unlink()
        mine.wait_sidecar()


def _let_go(pipes: list[Path], done: Callable[[], bool]) -> None:
    """Give whoever reads a pipe its end, until ``done``."""
    end = time.monotonic() + 60
    while not done() and time.monotonic() < end:
        for pipe in pipes:
            with contextlib.suppress(OSError):
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.05)


def test_an_answer_is_followed_by_any_number_of_windows_and_resumed(mine: HostProcess) -> None:
    request = question(user(STORY))
    with mine.client() as http, mine.client() as second:
        with http.stream("POST", "/chat/agent-stream", json=request) as answer:
            source = chunks(answer)
            first = [next(source) for _ in range(6)]
        url = f"/chat/agent-stream/{request['id']}/stream"
        with second.stream("GET", url) as resumed:
            assert resumed.status_code == 200
            again = list(chunks(resumed))
        assert again[:6] == first
        assert again[-1]["type"] == "finish"
        assert http.get(url).status_code == 204
        stored = http.get(f"/chat/sessions/{request['id']}").json()["messages"][1]
        assert "".join(p["text"] for p in stored["parts"] if p["type"] == "text") == text(again)


def test_two_windows_that_ask_at_once_lose_nothing(mine: HostProcess) -> None:
    with mine.client() as http:
        request = question(user(PARIS))
        chat(http, request)
        known = http.get(f"/chat/sessions/{request['id']}").json()["messages"]
        chat(http, {**request, "messages": [*known, user("And of Italy?")]})
        stale = http.post("/chat/agent-stream", json={**request, "messages": [*known, user("And of Spain?")]})
        assert (stale.status_code, stale.json()["error"]["code"]) == (409, "stale_parent")
        asked = [
            "".join(p.get("text", "") for p in m["parts"])
            for m in http.get(f"/chat/sessions/{request['id']}").json()["messages"]
            if m["role"] == "user"
        ]
        assert asked == [PARIS, "And of Italy?"]
        branched = {**request, "messages": [*known, user("And of Spain?")], "branch": True}
        assert "Madrid" in text(chat(http, branched))
        turns = http.get(f"/chat/sessions/{request['id']}").json()
        assert len(turns["siblings"][turns["messages"][2]["id"]]) == 2


def test_a_killed_service_shows_what_came_and_goes_on(tmp_path: Path, data_dir: Path) -> None:
    request = question(user(STORY))
    with host(tmp_path, data_dir=data_dir) as first:
        first.wait_seeded()
        with first.client() as http, http.stream("POST", "/chat/agent-stream", json=request) as answer:
            source = chunks(answer)
            said = ""
            while len(said) < 40:
                chunk = next(source)
                said += chunk.get("delta", "") if chunk["type"] == "text-delta" else ""
            time.sleep(1)  # a write a quarter of a second at the most after that
            first.process.kill()
            first.process.wait(10)
    with host(tmp_path, data_dir=data_dir) as again, again.client() as http:
        stored = http.get(f"/chat/sessions/{request['id']}").json()
        assert [m["metadata"]["state"] for m in stored["messages"]] == ["done", "interrupted"]
        kept = "".join(p["text"] for p in stored["messages"][1]["parts"] if p["type"] == "text")
        assert kept.startswith(said)
        assert stored["running"] is False


def test_a_restart_says_what_it_did(mine: HostProcess) -> None:
    before = mine.wait_sidecar()
    with mine.client() as http:
        done = http.post("/sidecar/restart")
        assert done.status_code == 202
        after = mine.wait_sidecar()
        assert after["pid"] != before["pid"]
        other = SidecarHost(HostConfig(state_dir=mine.folder / "state"))
        other.ensure_running()
        try:
            refused = http.post("/sidecar/restart")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "in_use")
            assert mine.sidecar()["pid"] == after["pid"]
        finally:
            other.release()
        os.kill(after["pid"], signal.SIGKILL)
        wait_for(lambda: mine.sidecar()["pid"] not in (None, after["pid"]), 60)
        kinds = [e["kind"] for e in http.get("/status").json()["sidecar"]["events"]]
        assert "crashed" in kinds, "events are still heard after a restart"


def test_one_stream_tells_what_changed(mine: HostProcess) -> None:
    with mine.client() as http, mine.client() as other, http.stream("GET", "/events") as stream:
        lines = stream.iter_lines()

        def following(wanted: str) -> Any:
            for line in lines:
                if line == f"event: {wanted}":
                    return json.loads(next(lines).removeprefix("data: "))
            raise AssertionError("the stream ended")

        assert following("status")["sidecar"]["phase"] == "running"
        name = question(user("Say hello."))
        other.post("/chat/agent-stream", json=name)
        while name["id"] not in [s["id"] for s in following("sessions")]:
            pass
        tagged = other.post("/tasks/tag", json={"text": "Cheese is made from milk."}).json()["id"]
        while tagged not in [t["id"] for t in following("tasks") if t["state"] == "done"]:
            pass


def test_sigterm_ends_it_soon_whatever_runs(tmp_path: Path, data_dir: Path) -> None:
    with host(tmp_path, data_dir=data_dir) as running:
        running.wait_seeded()
        path = tmp_path / "data" / "host.sqlite3"
        with (
            contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other,
            running.client() as http,
            http.stream("POST", "/chat/agent-stream", json=question(user(STORY))) as answer,
        ):
            source = chunks(answer)
            while next(source)["type"] != "text-delta":
                pass
            other.execute("BEGIN EXCLUSIVE")
            assert running.stop() == 0  # how soon: python -m benchmarks.host_health


def test_another_user_reads_nothing(mine: HostProcess) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    nobody = 65534
    found: list[Path] = []
    read, write = os.pipe()
    paths = sorted((mine.folder / "data").rglob("*"))
    assert len(paths) > 5
    if (child := os.fork()) == 0:
        try:
            os.setgid(nobody)
            os.setuid(nobody)
            for path in paths:
                with contextlib.suppress(OSError):
                    path.read_bytes()
                    os.write(write, f"{path}\n".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as source:
        found = [Path(line.strip()) for line in source]
    assert found == []
    for url in READS:
        assert httpx.get(f"{mine.url}{url}", trust_env=False).status_code == 401
