"""Pulls through a real server and from the terminal, of a model that then answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import models
from tests.support.fake_hub import FakeHub, Fault
from tests.support.servers import Sidecar, sidecar, wait_for

HUB_ID = "acme/tiny-vl"
ASK: dict[str, Any] = {"model": HUB_ID, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    folder = models.qwen3_vl(tmp_path_factory.mktemp("source") / "tiny")
    files: dict[str, bytes | Path] = {p.name: p.read_bytes() for p in folder.iterdir()}
    with FakeHub(files, hub_id=HUB_ID) as one:
        yield one


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hub: FakeHub, cache: Path) -> Iterator[Sidecar]:
    env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}
    flags = ("--cache-dir", str(cache), "--pull-stall", "2", "--pull-attempts", "2", "--no-warm-start")
    with sidecar(tmp_path_factory.mktemp("server"), *flags, env=env, data_dir=cache / "data") as running:
        yield running


@pytest.fixture(autouse=True)
def _healthy(hub: FakeHub) -> None:
    hub.faults, hub.rate = [], 0.0


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The documents of an event stream, ``[DONE]`` left out."""
    for line in answer.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def weights(hub: FakeHub) -> int:
    return hub.size("model.safetensors")


def test_pull_chat_delete(http: httpx.Client, server: Sidecar, hub: FakeHub) -> None:
    absent = http.post("/v1/chat/completions", json=ASK)
    assert absent.status_code == 404
    assert f"mlx-sidecar pull {HUB_ID}" in absent.json()["error"]["message"]

    hub.rate = weights(hub) / 3
    body = {"model": HUB_ID, "stream": True}
    second: list[httpx.Response] = []
    other = threading.Thread(target=lambda: second.append(httpx.post(f"{server.url}/v1/models/pull", json=body)))
    with http.stream("POST", "/v1/models/pull", json=body) as answer, server.client() as ask:
        assert answer.headers["content-type"].startswith("text/event-stream")
        source = events(answer)
        told = [next(source)]
        while told[-1]["status"] != "downloading" or not told[-1]["completed"]:
            told.append(next(source))
        other.start()
        busy = ask.post("/v1/chat/completions", json=ASK)
        assert busy.status_code == 503
        assert int(busy.headers["retry-after"]) >= 1
        error = busy.json()["error"]
        assert error["code"] == "model_being_pulled"
        assert 0 < error["progress"]["completed"] < error["progress"]["total"]
        assert "is being pulled" in error["message"]
        assert ask.get("/v1/models").json()["data"] == [], "only whole models are listed"
        assert ask.get("/health").json()["pulls"][0]["model"] == HUB_ID
        assert ask.delete(f"/v1/models/{HUB_ID}").status_code == 409
        hub.rate = 0.0
        told += source
    assert told[-1]["status"] == "success"
    assert told[-1]["completed"] == told[-1]["total"] > weights(hub)
    other.join(30)
    assert '"status": "success"' in second[0].text
    assert hub.sent() <= 1.05 * hub.total, "two pulls share one"

    assert [m["id"] for m in http.get("/v1/models").json()["data"]] == [HUB_ID]
    assert http.get(f"/v1/models/{HUB_ID}").json()["installed"]
    assert http.post("/v1/chat/completions", json=ASK).status_code == 200
    again = http.post("/v1/models/pull", json={"model": HUB_ID})
    assert (again.status_code, again.json()["status"]) == (200, "success")

    endless = ASK | {"stream": True, "max_tokens": 3000, "logit_bias": {"2": -100}}
    with http.stream("POST", "/v1/chat/completions", json=endless) as answer:
        lines = answer.iter_lines()
        next(lines)
        with server.client() as ask:
            used = ask.delete(f"/v1/models/{HUB_ID}")
        assert (used.status_code, used.json()["error"]["code"]) == (409, "model_in_use")
    wait_for(lambda: http.delete(f"/v1/models/{HUB_ID}").status_code == 200)
    assert http.get("/v1/models").json()["data"] == []
    assert http.get("/health").json()["models"] == []
    assert http.delete(f"/v1/models/{HUB_ID}").status_code == 404
    assert http.post("/v1/chat/completions", json=ASK).status_code == 404


def test_a_client_that_leaves_ends_the_pull_and_the_next_goes_on(http: httpx.Client, hub: FakeHub) -> None:
    hub.rate = weights(hub) / 20
    with http.stream("POST", "/v1/models/pull", json={"model": HUB_ID, "stream": True}) as answer:
        for one in events(answer):
            if one["file_completed"] > 0 and one["file"] == "model.safetensors":
                break
    wait_for(lambda: http.get("/health").json()["pulls"] == [])
    hub.rate = 0.0
    before = hub.sent()
    done = http.post("/v1/models/pull", json={"model": HUB_ID})
    assert done.json()["status"] == "success", done.text
    assert hub.sent() - before < weights(hub)
    http.delete(f"/v1/models/{HUB_ID}").raise_for_status()


def test_failures_are_errors(http: httpx.Client, hub: FakeHub) -> None:
    unknown = http.post("/v1/models/pull", json={"model": "qwen3-vl-4"})
    assert unknown.status_code == 404
    assert "Did you mean 'qwen3-vl-4b'?" in unknown.json()["error"]["message"]
    absent = http.post("/v1/models/pull", json={"model": "acme/nothing"})
    assert (absent.status_code, absent.json()["error"]["code"]) == (404, "not_found")
    hub.faults = [Fault("corrupt", times=9, path="model.safetensors")]
    wrong = http.post("/v1/models/pull", json={"model": HUB_ID})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (502, "damaged")
    hub.faults = [Fault("corrupt", times=9, path="model.safetensors")]
    with http.stream("POST", "/v1/models/pull", json={"model": HUB_ID, "stream": True}) as answer:
        last = list(events(answer))[-1]
    assert last["error"]["code"] == "damaged"
    assert http.get("/v1/models").json()["data"] == []
    assert http.delete(f"/v1/models/{HUB_ID}").status_code == 200, "also what is partly here goes"
    assert http.delete("/v1/models/starter").status_code == 404


def interruptible() -> None:
    """Ctrl-C reaches the program even where these tests run in a shell's background, which ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_the_terminal_pulls_stops_goes_on_and_deletes(server: Sidecar, hub: FakeHub, cache: Path) -> None:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    flags = ("--cache-dir", str(cache), "--data-dir", str(cache / "data"))
    command = [sys.executable, "-m", "sidecar.entry", "pull", HUB_ID, *flags]
    hub.rate = weights(hub) / 20
    pulling = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible)
    with pulling as process, server.client() as ask:
        try:
            with contextlib.suppress(StopIteration):
                wait_for(lambda: any(p.stat().st_size for p in cache.rglob("*.incomplete")))
            busy = ask.post("/v1/chat/completions", json=ASK)
            assert (busy.status_code, busy.json()["error"]["code"]) == (503, "model_being_pulled"), busy.text
            process.send_signal(signal.SIGINT)
            assert process.wait(15) == 130
        finally:
            process.kill()
        assert process.stderr is not None
        assert "what came is kept" in process.stderr.read()
    hub.rate = 0.0
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "config.json").exists()
    assert "100%" in done.stderr
    with server.client() as ask:
        assert ask.post("/v1/chat/completions", json=ASK).status_code == 200, "the server sees it at once"
    remove = [sys.executable, "-m", "sidecar.entry", "rm", HUB_ID, "--state-dir", str(server.state_dir), *flags]
    done = subprocess.run(remove, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"deleted {HUB_ID} (")
    with server.client() as ask:
        assert ask.get("/health").json()["models"] == [], "the server was asked, and unloaded it"
    assert not list(cache.glob("models--*"))
