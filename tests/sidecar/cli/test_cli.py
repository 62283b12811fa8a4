"""The terminal commands, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import Sidecar, sidecar


def run(*args: str, env: dict[str, str] | None = None, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """One command."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLX_SIDECAR_")}
    command = [sys.executable, "-m", "sidecar.entry", *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**clean, **(env or {})}, check=False, input=text
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data_dir: Path, model_dir: Path) -> tuple[str, ...]:
    """Flags of a state directory with no server."""
    state = tmp_path_factory.mktemp("state")
    return ("--state-dir", str(state), "--data-dir", str(data_dir), "--model-dir", str(model_dir))


def test_chat_answers_without_a_server_and_leaves_none(alone: tuple[str, ...]) -> None:
    done = run("chat", "What is the capital of France?", "--temperature", "0", *alone)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The capital of France is Paris.\n"
    assert done.stderr == ""


def test_chat_with_an_image_as_json(alone: tuple[str, ...], tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), (255, 0, 0)).save(picture)
    done = run(
        "chat", "what is it?", "--image", str(picture), "--model", "tiny-vl", "--max-tokens", "4", "--json", *alone
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["model"] == "tiny-vl"
    assert document["usage"]["prompt_tokens"] > 20


def test_chat_talks_line_by_line(alone: tuple[str, ...]) -> None:
    done = run("chat", "--temperature", "0", "--max-tokens", "12", *alone, text="My name is Ada.\nWhat is my name?\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2


def test_chat_errors_are_messages(alone: tuple[str, ...]) -> None:
    missing = run("chat", "hi", "--model", "nothing-like-this", *alone)
    assert missing.returncode == 1
    assert "no model 'nothing-like-this'" in missing.stderr
    image = run("chat", "hi", "--image", "/nowhere.png", *alone)
    assert image.returncode == 78
    assert "--image /nowhere.png" in image.stderr
    assert "Traceback" not in missing.stderr + image.stderr


def test_status_and_stop(tmp_path: Path, data_dir: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    assert run("status", *state).returncode == 1
    assert json.loads(run("stop", "--json", *state).stdout)["stopped"] is False
    with sidecar(tmp_path, data_dir=data_dir) as running:
        status = json.loads(run("status", "--json", *state).stdout)
        assert status["running"] is True
        assert status["pid"] == running.process.pid
        assert "token" not in status
        asked = run("chat", "What is the capital of France?", "--temperature", "0", *state)
        assert "Paris" in asked.stdout
        refused = run("stop", *state)
        assert refused.returncode == 1
        assert "by hand" in refused.stdout
        stopped = run("stop", "--force", *state)
        assert stopped.returncode == 0, stopped.stdout
        assert running.process.wait(10) == 0
    assert json.loads(run("status", "--json", *state).stdout) == {"running": False}


def test_models_version_help(alone: tuple[str, ...]) -> None:
    names = {m["id"] for m in json.loads(run("models", "--json", *alone[2:]).stdout)}
    assert {"starter", "tiny-vl", "minilm"} <= names
    assert json.loads(run("version", "--json").stdout)["mlx-vlm"]
    help_text = run("serve", "--help").stdout
    assert "MLX_SIDECAR_DRAIN_TIMEOUT" in help_text
    assert run().returncode == 2


def test_environment_and_flags(server: Sidecar, tmp_path: Path) -> None:
    from argparse import Namespace

    from sidecar.config import load

    env = {"MLX_SIDECAR_PORT": "5", "MLX_SIDECAR_MANAGED": "yes", "MLX_SIDECAR_MODEL_DIR": "/a:/b"}
    settings = load(None, env)
    assert (settings.port, settings.managed, settings.model_dir) == (5, True, (Path("/a"), Path("/b")))
    assert load(Namespace(port=7), env).port == 7
    assert load(None, {}).port == 60316
