"""The process follows the assignments: start, stop, crash, bursts, restart of the host, errors at start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from host_api.app.server import serve
from tests.host.servers import HostProcess, host
from tests.servers import Sidecar, wait_for


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def unassign_all(http: httpx.Client) -> dict[str, object]:
    last: dict[str, object] = {}
    for capability in ("structured_output", "tool_use", "vision", "text"):
        last = http.post(f"/models/global_capability/{capability}", json={"model_id": None}).json()["sidecar"]
    return last


def test_no_capability_on_the_built_in_model_stops_its_process_and_one_starts_it(
    tmp_path: Path, data_dir: Path
) -> None:
    with host(tmp_path, data_dir=data_dir) as running, running.client() as http:
        first = running.wait_sidecar()
        wait_for(lambda: "tool_use" in http.get("/status").json()["capabilities"])
        stopped = unassign_all(http)
        assert (stopped["happened"], stopped["phase"]) == ("stopped", "off")
        wait_for(lambda: gone(first["pid"]))
        body = {"provider_id": "builtin", "model": "starter"}
        started = http.post("/models/global_capability/text", json=body).json()["sidecar"]
        assert (started["happened"], started["phase"]) == ("started", "running")
        assert started["pid"] != first["pid"]
        kept = http.post("/models/global_capability/tool_use", json=body).json()["sidecar"]
        assert (kept["happened"], kept["pid"]) == ("kept", started["pid"])


def test_another_provider_needs_no_sidecar(tmp_path: Path, data_dir: Path, second: tuple[Sidecar, str]) -> None:
    with host(tmp_path, data_dir=data_dir) as running, running.client() as http:
        running.wait_sidecar()
        wait_for(lambda: "tool_use" in http.get("/status").json()["capabilities"])
        made = http.post(
            "/models/providers", json={"name": "other", "base_url": f"{second[0].url}/v1", "api_key": second[1]}
        ).json()
        http.post(f"/models/provider/{made['id']}/discover")
        unassign_all(http)
        body = {"provider_id": made["id"], "model": "starter"}
        moved = http.post("/models/global_capability/text", json=body).json()
        assert moved["provider"]["name"] == "other"
        assert moved["sidecar"]["phase"] == "off"
        results = http.post(f"/models/confirm_capability/{moved['model']['id']}", json={"capabilities": ["text"]})
        assert results.json()["results"]["text"]["ok"] is True


def test_a_hundred_changes_in_a_second_start_at_most_once(tmp_path: Path, data_dir: Path) -> None:
    on = {"provider_id": "builtin", "model": "starter"}

    async def burst(url: str, last: bool) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            for i in range(100):
                body = on if (i % 2 == 1) == last else {"model_id": None}
                await client.post("/models/global_capability/text?wait=false", json=body)

    with host(tmp_path, data_dir=data_dir) as running, running.client() as http:
        running.wait_sidecar()
        wait_for(lambda: "tool_use" in http.get("/status").json()["capabilities"])
        unassign_all(http)
        for last in (True, False):
            before = running.sidecar()["starts"]
            asyncio.run(burst(running.url, last))
            found = running.wait_sidecar("running" if last else "off")
            assert found["starts"] - before <= 1
            time.sleep(0.3)
            assert running.sidecar()["phase"] == found["phase"]


def test_a_killed_sidecar_comes_back(tmp_path: Path, data_dir: Path) -> None:
    with host(tmp_path, data_dir=data_dir) as running:
        first = running.wait_sidecar()
        os.kill(first["pid"], signal.SIGKILL)

        def back() -> bool:
            found = running.sidecar()
            return found["phase"] == "running" and found["instance_id"] != first["instance_id"]

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
    assert "in use" in capsys.readouterr().err
