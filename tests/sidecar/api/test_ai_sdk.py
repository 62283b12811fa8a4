"""The real AI SDK from Node over a real socket: by Responses, by chat, by its provider for compatible servers."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.support.node import installed
from tests.support.servers import Sidecar

SOURCE = Path(__file__).with_name("ai_sdk")


@pytest.mark.parametrize("kind", ["responses", "chat", "compatible"])
def test_ai_sdk(server: Sidecar, kind: str) -> None:
    folder = installed(SOURCE, "ask.mjs")
    picture = io.BytesIO()
    drawn = Image.new("RGB", (224, 224), "white")
    drawn.paste((220, 20, 20), (44, 44, 180, 180))
    drawn.save(picture, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    command = ["node", "ask.mjs", server.url, kind, url]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    text, finish, counted = out["text"]
    assert "Paris" in text
    assert finish == out["ended"] == "stop"
    assert counted
    assert len(out["parts"]) > 2
    assert "".join(out["parts"]) == text
    for document in (out["object"], out["streamed"]):
        assert isinstance(document["name"], str)
        assert isinstance(document["large"], bool)
    assert out["partials"] > 1
    assert len(out["called"]) >= 1
    assert out["steps"][0] == "tool-calls"
    assert len(out["steps"]) == 2
    assert "red" in out["seen"].lower()
    assert out["vectors"] == [384, 2, True]
    status, message = out["refused"]
    assert status == 404
    assert "not-here" in message
