"""The process follows the assignments: start, stop, crash, bursts, restart of the host, errors at start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from host_api.app.server import serve
from tests.host_api.app.test_chat import PARIS, chat, text, user
from tests.host_api.app.test_chat import body as question_body
from tests.support.host_servers import HostProcess, host
from tests.support.servers import Sidecar, wait_for


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


CAPABILITIES = ("structured_output", "tool_use", "vision", "text", "embedding")
STARTER = {"provider_id": "builtin", "model": "starter"}


def unassign_all(http: httpx.Client) -> dict[str, object]:
    """No capability on anything; what the last reply says of the process, which has ended by then."""
    last: dict[str, object] = {}
    for capability in CAPABILITIES:
        wait = "true" if capability == CAPABILITIES[-1] else "false"
        url = f"/models/global_capability/{capability}?wait={wait}"
        last = http.post(url, json={"model_id": None}).json()["sidecar"]
    return last


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[HostProcess]:
    """A host whose assignments the tests change."""
    with host(tmp_path_factory.mktemp("changing"), data_dir=data_dir) as process:
        process.wait_seeded()
        yield process


@pytest.fixture
def own(changing: HostProcess) -> Iterator[httpx.Client]:
    """A client for it; its text is on the starter model and its sidecar runs."""
    with changing.client() as http:
        http.post("/models/global_capability/text", json=STARTER).raise_for_status()
        changing.wait_sidecar()
        yield http


def test_no_capability_on_the_built_in_model_stops_its_process_and_one_starts_it(
    changing: HostProcess, own: httpx.Client
) -> None:
    first = changing.sidecar()
    stopped = unassign_all(own)
    assert (stopped["happened"], stopped["phase"]) == ("stopped", "off")
    wait_for(lambda: gone(first["pid"]))
    for off in (own.get("/models/catalogue"), own.post("/models/pulls", json={"model": "qwen3-vl-2b"})):
        assert (off.status_code, off.json()["error"]["code"]) == (503, "sidecar_off")
    started = own.post("/models/global_capability/text", json=STARTER).json()["sidecar"]
    assert (started["happened"], started["phase"]) == ("started", "running")
    assert started["pid"] != first["pid"]
    kept = own.post("/models/global_capability/tool_use", json=STARTER).json()["sidecar"]
    assert (kept["happened"], kept["pid"]) == ("kept", started["pid"])


def test_another_provider_needs_no_sidecar(own: httpx.Client, second: tuple[Sidecar, str]) -> None:
    """A second real server, foreign to this host and with a key of its own, does everything the first did."""
    body = {"name": "other", "base_url": f"{second[0].url}/v1", "api_key": second[1]}
    made = own.post("/models/providers", json=body).json()
    own.post(f"/models/provider/{made['id']}/discover")
    unassign_all(own)
    for capability in ("text", "vision", "structured_output"):
        url = f"/models/global_capability/{capability}"
        moved = own.post(url, json={"provider_id": made["id"], "model": "starter"}).json()
        assert moved["provider"]["name"] == "other"
        assert moved["sidecar"]["phase"] == "off"
    wanted = {"capabilities": ["text", "vision", "structured_output"]}
    results = own.post(f"/models/confirm_capability/{moved['model']['id']}", json=wanted).json()["results"]
    assert all(r["ok"] for r in results.values()), results
    assert "Paris" in text(chat(own, question_body(user(PARIS))))
    tagged = own.post("/tasks/tag", json={"text": "Bread is baked from flour, water and yeast."}).json()
    wait_for(lambda: own.get(f"/tasks/{tagged['id']}").json()["state"] in ("done", "failed"), 60)
    assert own.get(f"/tasks/{tagged['id']}").json()["result"]["tags"]
    assert own.get("/status").json()["sidecar"]["phase"] == "off"
    own.delete(f"/models/providers/{made['id']}")


def test_a_hundred_changes_in_a_second_start_at_most_once(changing: HostProcess, own: httpx.Client) -> None:
    async def burst(url: str, last: bool) -> None:
        headers = {"authorization": f"Bearer {changing.key}"}
        async with httpx.AsyncClient(base_url=url, timeout=60, headers=headers, trust_env=False) as client:
            for i in range(100):
                body = STARTER if (i % 2 == 1) == last else {"model_id": None}
                await client.post("/models/global_capability/text?wait=false", json=body)

    unassign_all(own)
    for last in (True, False):
        before = changing.sidecar()["starts"]
        asyncio.run(burst(changing.url, last))
        found = changing.wait_sidecar("running" if last else "off")
        assert found["starts"] - before <= 1
        again = own.post("/models/global_capability/text", json=STARTER if last else {"model_id": None}).json()
        assert again["sidecar"]["phase"] == found["phase"]  # of a reply that waits until every change is acted on
        assert changing.sidecar()["starts"] == found["starts"]


@pytest.mark.usefixtures("own")
def test_a_killed_sidecar_comes_back(changing: HostProcess) -> None:
    first = changing.sidecar()
    os.kill(first["pid"], signal.SIGKILL)

    def back() -> bool:
        found = changing.sidecar()
        return bool(found["phase"] == "running" and found["instance_id"] != first["instance_id"])

    wait_for(back, 60)


def test_a_restarted_host_finds_the_same_sidecar(tmp_path: Path, data_dir: Path) -> None:
    with host(tmp_path, "--grace-time", "30", data_dir=data_dir) as running:
        first = running.wait_sidecar()
        assert running.stop() == 0
        assert not gone(first["pid"])
        with host(tmp_path, "--grace-time", "30", data_dir=data_dir) as again:
            second = again.wait_sidecar()
            assert second["instance_id"] == first["instance_id"]


def test_the_start_is_not_held_up_by_a_sidecar_that_fails(tmp_path: Path, data_dir: Path) -> None:
    key = tmp_path / "empty"
    key.touch()
    with host(tmp_path, data_dir=data_dir, env={"MLX_SIDECAR_API_KEY_FILE": str(key)}) as running:
        found = running.wait_sidecar("failed")
        assert found["detail"]
        with running.client() as http:
            refused = http.post("/models/confirm_capability/1", json={"capabilities": ["text"]})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "sidecar_unavailable")
            key.write_text("now-there-is-one\n")
        running.wait_sidecar("running")


def test_logs_are_named_by_day(running: HostProcess) -> None:
    assert (running.folder / "data" / "logs" / f"api_{time.strftime('%Y%m%d')}.log").is_file()


def test_a_configured_token_is_asked_for(tmp_path: Path, data_dir: Path) -> None:
    key = tmp_path / "key"
    key.write_text("host-key\n")
    with host(tmp_path, "--api-key-file", str(key), data_dir=data_dir) as running, running.client() as http:
        assert http.get("/health").status_code == 200
        assert http.get("/status").status_code == 401
        assert http.post("/models/pulls", json={"model": "qwen3-vl-2b"}).status_code == 401
        assert http.get("/status", headers={"authorization": "Bearer host-key"}).status_code == 200


def test_settings_that_cannot_be_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(["--port", "70000"]) == 78
    assert "--port" in capsys.readouterr().err
    assert serve(["--api-key-file", str(tmp_path / "none")]) == 78
    assert "--api-key-file" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        args = ["--port", str(taken.getsockname()[1]), "--data-dir", str(tmp_path), "--state-dir", str(tmp_path)]
        assert serve(args) == 3
    assert "is busy" in capsys.readouterr().err
