"""The real AI SDK (``Chat``, which ``useChat`` wraps, and its default transport) against a real service."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host_api.app.models.probes import square_png
from tests.support.host_servers import HostProcess
from tests.support.node import installed

SOURCE = Path(__file__).with_name("ai_sdk")
Say = Callable[..., tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture(scope="module")
def say(running: HostProcess) -> Say:
    """Sends one message; what the client's chat holds then, and what the service stored."""
    folder = installed(SOURCE, "chat.mjs")

    def run(*args: str) -> tuple[dict[str, Any], dict[str, Any]]:
        command = ["node", "chat.mjs", running.url, running.key, *args]
        out = subprocess.run(command, cwd=folder, check=True, timeout=150, capture_output=True, text=True)
        first, second = out.stdout.splitlines()
        return json.loads(first), json.loads(second)

    return run


def test_use_chat_streams_an_answer_and_the_service_stores_the_same_messages(say: Say) -> None:
    held, stored = say("What is the capital of France?")
    assert held["status"] == "ready"
    assert held["states"] == ["submitted", "streaming", "ready"]
    assert "error" not in held
    answer = held["messages"][-1]
    assert answer["role"] == "assistant"
    assert "Paris" in "".join(p["text"] for p in answer["parts"] if p["type"] == "text")
    assert stored["same"] is True


def test_use_chat_sends_an_image_as_a_file_part(say: Say) -> None:
    image = "data:image/png;base64," + base64.b64encode(square_png()).decode()
    held, stored = say("What is this?", image)
    assert "error" not in held
    assert [p["type"] for p in held["messages"][0]["parts"]] == ["file", "text"]
    assert "red" in "".join(p.get("text", "") for p in held["messages"][1]["parts"]).lower()
    assert stored["same"] is True


def test_use_chat_shows_why_a_request_was_refused(say: Say, running: HostProcess) -> None:
    with running.client() as http:
        before = http.get("/models/global_capability/vision").json()["model"]
        http.post("/models/global_capability/vision", json={"model_id": None})
        held, _ = say("What is this?", "data:image/png;base64," + base64.b64encode(square_png()).decode())
        http.post("/models/global_capability/vision", json={"model_id": before["id"] if before else None})
    assert held["status"] == "error"
    assert "vision" in held["error"]
