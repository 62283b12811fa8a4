"""The process: signals, drains, logs, exits, disconnects, exit codes."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support import models
from tests.support.servers import Sidecar, sidecar, wait_for

STORY: Any = {
    "model": "starter",
    "messages": [{"role": "user", "content": "Tell me a very long story about a dragon."}],
    "temperature": 0,
    "stream": True,
    "max_tokens": 400,
}
SECRET = "xyzzy-plugh-42"


def test_drain_lets_a_stream_finish_and_refuses_new_work(tmp_path: Path, data_dir: Path) -> None:
    with sidecar(tmp_path, data_dir=data_dir) as running, running.client() as http, running.client() as other:
        body = STORY | {"max_tokens": 60}
        lines: list[str] = []
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            source = answer.iter_lines()
            lines.extend(next(source) for _ in range(4))
            running.process.send_signal(signal.SIGTERM)
            wait_for(lambda: other.get("/health").json()["status"] == "draining")
            refused = other.post("/v1/chat/completions", json=STORY)
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            assert refused.json()["error"]["code"] == "draining"
            assert other.get("/health/ready").status_code == 503
            lines.extend(source)
        assert "data: [DONE]" in lines
        assert running.process.wait(30) == 0


def test_drain_timeout_ends_what_runs_with_an_error_event(tmp_path: Path, data_dir: Path) -> None:
    with (
        sidecar(tmp_path, "--drain-timeout", "0.2", data_dir=data_dir) as running,
        running.client() as http,
        http.stream("POST", "/v1/chat/completions", json=STORY) as answer,
    ):
        source = answer.iter_lines()
        for _ in range(4):
            next(source)
        running.process.send_signal(signal.SIGINT)
        try:
            rest = list(source)
            assert "data: [DONE]" not in rest
        except httpx.RemoteProtocolError:
            pass
        assert running.process.wait(30) == 0


def test_a_second_signal_exits_at_once(tmp_path: Path, data_dir: Path) -> None:
    with (
        sidecar(tmp_path, "--drain-timeout", "600", data_dir=data_dir) as running,
        running.client() as http,
        http.stream("POST", "/v1/chat/completions", json=STORY) as answer,
    ):
        source = answer.iter_lines()
        for _ in range(4):
            next(source)
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{running.url}/health").json()["status"] == "draining")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 128 + signal.SIGTERM


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_row(server: Sidecar, stream: bool) -> None:
    def busy() -> int:
        queue = httpx.get(f"{server.url}/health").json()["queue"]
        return sum(q["running"] + q["waiting"] for q in queue.values())

    wait_for(lambda: busy() == 0)
    body = json.dumps(STORY | {"stream": stream, "max_tokens": 4000}).encode()
    host, port = "127.0.0.1", int(server.url.rpartition(":")[2])
    with socket.create_connection((host, port)) as raw:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        raw.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: busy() == 1)
    wait_for(lambda: busy() == 0, timeout=10)


def test_logs_hold_no_prompt_and_no_key(tmp_path: Path, data_dir: Path) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET + "-key")
    with sidecar(tmp_path, "--api-key-file", str(key), "--log-level", "debug", data_dir=data_dir) as running:
        with running.client(headers={"authorization": f"Bearer {SECRET}-key"}) as http:
            body = STORY | {"messages": [{"role": "user", "content": SECRET}], "stream": False, "max_tokens": 3}
            assert http.post("/v1/chat/completions", json=body).status_code == 200
            assert http.post("/v1/chat/completions", json=body | {"temperature": 99}).status_code == 400
        today = time.strftime("%Y%m%d")
        names = {p.name for p in (running.state_dir / "logs").iterdir()}
        assert {f"mlx_service_{today}.log", f"api_{today}.log"} <= names
        logs = running.logs()
        assert "/v1/chat/completions" in logs
        assert SECRET not in logs
        assert SECRET not in running.output.read_text()


def test_prompts_are_logged_where_the_operator_says_so(tmp_path: Path, data_dir: Path) -> None:
    with sidecar(tmp_path, "--log-prompts", data_dir=data_dir) as running, running.client() as http:
        body = STORY | {"messages": [{"role": "user", "content": SECRET}], "stream": False, "max_tokens": 3}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        assert SECRET in running.logs()


def test_native_output_reaches_the_log(tmp_path: Path, data_dir: Path) -> None:
    """A native library's last words go to file descriptor 2 and must be in the log after the process died."""
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from sidecar import config\n"
        "from sidecar.process import logs\n"
        "logs.setup(config.Settings(state_dir=Path(sys.argv[1])))\n"
        "os.write(2, b'[METAL] Command buffer execution failed\\n')\n"
        "time.sleep(0.5)\n"
        "os.abort()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGABRT
    assert b"[METAL]" in done.stderr
    assert "[METAL] Command buffer execution failed" in "".join(p.read_text() for p in (tmp_path / "logs").iterdir())


def test_logs_roll_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from host_api.loopback import daily_log as logs

    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    handler = logs.DailyFile(tmp_path, "mlx_service")
    logger = logging.Logger("test")
    logger.addHandler(handler)
    for i in range(200):
        logger.error("line %d %s", i, "x" * 80)
    handler.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + logs.BACKUPS
    assert all(f.stat().st_size <= 2000 for f in files)
    assert "line 199" in (tmp_path / f"mlx_service_{time.strftime('%Y%m%d')}.log").read_text()


def test_start_model_loads_behind_the_open_port(tmp_path: Path, data_dir: Path) -> None:
    with sidecar(tmp_path, "--model", "starter", data_dir=data_dir) as running, running.client() as http:
        seen = set()

        def ready() -> bool:
            health = http.get("/health").json()
            seen.add(health["status"])
            return bool(health["model"] == "starter")

        wait_for(ready)
        assert "loading" in seen
        assert http.get("/health").json()["status"] == "ready"


def test_a_start_model_that_is_not_there_leaves_a_server_that_says_so(tmp_path: Path, data_dir: Path) -> None:
    with sidecar(tmp_path, "--model", "qwen3-vl-4b", data_dir=data_dir) as running, running.client() as http:
        wait_for(lambda: http.get("/health").json()["error"] is not None)
        assert "mlx-sidecar pull" in http.get("/health").json()["error"]


def test_the_listener_never_loads_what_the_engine_needs(tmp_path: Path, data_dir: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (255, 0, 0)).save(file, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    with sidecar(tmp_path, data_dir=data_dir) as running, running.client() as http:
        content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": picture}}]
        body: Any = {"model": "starter", "messages": [{"role": "user", "content": content}], "max_tokens": 4}
        body["response_format"] = {"type": "json_object"}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        listener = Path(f"/proc/{running.process.pid}/maps").read_text()
        engine = Path(f"/proc/{http.get('/health').json()['engine']['pid']}/maps").read_text()
    for name in ("libmlx", "tokenizers", "_imaging", "llguidance"):
        assert name in engine, name
        assert name not in listener, name
    for name in ("numpy", "_rust_notify", "speedups"):  # nor uvicorn's reloader, nor a WebSocket library
        assert name not in listener, name


def run_serve(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`mlx-sidecar serve` that is expected to end by itself."""
    command = [sys.executable, "-m", "sidecar.entry", "serve", *args]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLX_SIDECAR_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**clean, **(env or {})}, check=False
    )


def test_exit_codes_and_messages(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "s"))
    bad = run_serve(*state, "--port", "99999")
    assert bad.returncode == 78
    assert "--port" in bad.stderr
    word = run_serve(*state, env={"MLX_SIDECAR_MANAGED": "perhaps"})
    assert word.returncode == 78
    assert "MLX_SIDECAR_MANAGED" in word.stderr
    key = run_serve(*state, "--api-key-file", str(tmp_path / "nokey"))
    assert key.returncode == 78
    assert "--api-key-file" in key.stderr
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        taken = run_serve(*state, "--port", str(port), "--strict-port")
        assert taken.returncode == 3
        assert str(port) in taken.stderr
        assert str(os.getpid()) in taken.stderr


def test_a_busy_port_is_left_alone_and_another_published(tmp_path: Path, data_dir: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with sidecar(tmp_path, "--port", str(port), data_dir=data_dir) as running:
            assert running.record["port"] != port
            assert httpx.get(f"{running.url}/health").status_code == 200


def hooked(folder: Path, code: str) -> dict[str, str]:
    """Return an environment in which ``code`` runs at each start of Python: faults are planted by it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def test_an_engine_that_dies_of_a_request_twice_refuses_that_one_alone(tmp_path: Path, data_dir: Path) -> None:
    """The prompt that kills is read by the real engine; its thread dies of an error that nothing catches."""
    env = hooked(
        tmp_path / "hook",
        "import sys\n"
        "if 'engine' in sys.orig_argv:\n"
        "    from sidecar.engine import thread\n"
        "    real = thread.EngineThread._submit\n"
        "    def submit(self, path, request):\n"
        "        real(self, path, request)\n"
        "        if request.max_tokens == 77:\n"
        "            raise SystemExit('planted')\n"
        "    thread.EngineThread._submit = submit\n",
    )
    with sidecar(tmp_path, env=env, data_dir=data_dir) as running, running.client() as http:
        body = STORY | {"stream": False, "max_tokens": 5}
        first = http.post("/v1/chat/completions", json=body).json()["choices"]
        for _ in range(3):
            poison = http.post("/v1/chat/completions", json=body | {"max_tokens": 77})
            assert poison.status_code == 500
            assert poison.json()["error"]["code"] == "engine_died"
            assert "twice" in poison.json()["error"]["message"]
        assert http.post("/v1/chat/completions", json=body).json()["choices"] == first
        health = http.get("/health").json()
        assert health["status"] == "ready"
        assert health["engine"]["deaths"] == 6
        assert "exit status 70" in health["engine"]["last_deaths"][0]["reason"]
        assert running.process.poll() is None


def test_a_model_that_engines_die_of_while_loading_is_told_as_such_and_others_go_on(
    tmp_path: Path, data_dir: Path
) -> None:
    env = hooked(
        tmp_path / "hook",
        "import os, sys\n"
        "if 'engine' in sys.orig_argv:\n"
        "    from sidecar.engine import thread\n"
        "    real = thread.EngineThread._load\n"
        "    thread.EngineThread._load = lambda self, path, future: (\n"
        "        os._exit(9) if path.name == 'other' else real(self, path, future))\n",
    )
    models.qwen3_vl(tmp_path / "models" / "other", layers=1, hidden=64)
    flags = ("--model-dir", str(tmp_path / "models"), "--max-resident", "2")
    with sidecar(tmp_path, *flags, env=env, data_dir=data_dir) as running, running.client() as http:
        body = STORY | {"stream": False, "max_tokens": 24}
        expected = http.post("/v1/chat/completions", json=body).json()["choices"]
        with ThreadPoolExecutor(5) as pool:
            chat = pool.submit(http.post, "/v1/chat/completions", json=body)
            asked = [pool.submit(http.post, "/v1/chat/completions", json=body | {"model": "other"}) for _ in range(3)]
            answers = [one.result() for one in asked]
            assert chat.result().json()["choices"] == expected
        deaths = http.get("/health").json()["engine"]["deaths"]
        for answer in [*answers, http.post("/v1/models/other/load", json={})]:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "model_load_died")
            assert "exit status 9" in error["message"]
            assert "no request is at fault" in error["message"]
            assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert http.post("/v1/chat/completions", json=body).json()["choices"] == expected
        assert http.get("/health").json()["engine"]["deaths"] == deaths, "it isn't tried again at once"


def test_a_server_whose_engines_do_not_come_up_leaves(tmp_path: Path, data_dir: Path) -> None:
    code = "import os, sys\nif 'engine' in sys.orig_argv:\n    os._exit(9)\n"
    with sidecar(tmp_path, env=hooked(tmp_path / "hook", code), data_dir=data_dir) as running:
        with running.client() as http:
            answer = http.post("/v1/chat/completions", json=STORY | {"stream": False})
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "engine_failed"
        assert running.process.wait(30) == 1
        assert "exit status 9" in running.logs()


def test_the_engine_cannot_be_started_by_hand(tmp_path: Path) -> None:
    for argv in ([], ["--fd", "0"], ["--fd", "77"]):
        done = subprocess.run(
            [sys.executable, "-m", "sidecar.entry", "engine", *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 78
        assert "mlx-sidecar serve" in done.stderr


def test_localhost_is_answered_whichever_address_it_means(server: Sidecar) -> None:
    port = server.record["port"]
    assert server.record["host"] == "127.0.0.1"
    for host in listen_hosts():
        assert httpx.get(f"http://{host}:{port}/health", timeout=10).json()["instance_id"]


def listen_hosts() -> list[str]:
    """The loopback addresses that this machine has."""
    found = ["127.0.0.1", "localhost"]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        found.append("[::1]")
    return found
