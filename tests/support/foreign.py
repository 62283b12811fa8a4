"""Servers of other people as providers: what is tried with each, and a way to try one by hand.

``python -m tests.support.foreign http://127.0.0.1:8000/v1 [MODEL]`` starts a host service of its own, points it at the
server and prints what came of discovering, confirming, chatting and tagging.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import httpx

from tests.support.host_servers import HostProcess, host

PARIS = "What is the capital of France?"
CITY = "Paris is the capital of France and a city of art and food."
CAPABILITIES = ("structured_output", "tool_use", "vision", "text", "embedding")


def add(http: httpx.Client, name: str, base_url: str) -> tuple[str, dict[str, int]]:
    """Make a provider and ask it for its models: its id, and theirs by name."""
    made = http.post("/models/providers", json={"name": name, "base_url": base_url})
    made.raise_for_status()
    found = http.post(f"/models/provider/{made.json()['id']}/discover")
    assert found.status_code == 200, found.text
    return made.json()["id"], {m["name"]: m["id"] for m in found.json()}


def assign(http: httpx.Client, capability: str, model_id: int | None) -> dict[str, Any]:
    """Point a capability at a model; what the reply says of the sidecar."""
    answer = http.post(f"/models/global_capability/{capability}", json={"model_id": model_id})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["sidecar"]
    return found


def ask(http: httpx.Client, question: str, **extra: Any) -> tuple[str, list[str]]:
    """One chat turn: the words of the answer, and its errors."""
    message = {"id": uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": question}]}
    body = {"trigger": "submit-message", "id": uuid.uuid4().hex, "messages": [message], **extra}
    with http.stream("POST", "/chat/agent-stream", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        events = [json.loads(x[6:]) for x in answer.iter_lines() if x.startswith("data: {")]
    words = "".join(e["delta"] for e in events if e["type"] == "text-delta")
    return words, [e["errorText"] for e in events if e["type"] == "error"]


def tag(http: httpx.Client, text: str, timeout: float = 240) -> dict[str, Any]:
    """The task of tagging ``text``, when it has ended."""
    made = http.post("/tasks/tag", json={"text": text})
    assert made.status_code in (200, 202), made.text
    end = time.monotonic() + timeout
    while (task := http.get(f"/tasks/{made.json()['id']}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < end, task
        time.sleep(0.05)
    found: dict[str, Any] = task
    return found


def walk(running: HostProcess, base_url: str, model: str | None) -> None:
    """Print what a provider does in this service."""
    say = sys.stdout.write
    with running.client() as http:
        http.timeout = 600
        _, models = add(http, "foreign", base_url)
        say(f"models: {', '.join(models)}\n")
        chosen = models[model] if model else next(iter(models.values()))
        results: dict[str, Any] = {}
        for name in ("text", "structured_output", "tool_use"):
            began = time.monotonic()
            answer = http.post(f"/models/confirm_capability/{chosen}", json={"capabilities": [name]}).json()
            results |= answer.get("results", {})
            took = time.monotonic() - began
            say(f"{name}: {answer.get('results', {}).get(name) or answer} ({took:.1f} s)\n")
        say(f"text on it: the sidecar is {assign(http, 'text', chosen)['happened']}\n")
        began = time.monotonic()
        words, errors = ask(http, PARIS)
        say(f"chat: {words!r} {errors or ''} ({time.monotonic() - began:.1f} s)\n")
        for capability in CAPABILITIES:
            if capability != "text":
                last = assign(http, capability, None)
        say(f"nothing on builtin: the sidecar is {last['happened']}\n")
        if results.get("structured_output", {}).get("ok"):
            assign(http, "structured_output", chosen)
        task = tag(http, CITY)
        say(f"tags: {task['state']} {task['result'] or task['error']}\n")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.foreign", description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument("model", nargs="?")
    args = parser.parse_args()
    cache = Path.home() / ".cache" / "mlx-sidecar-dev" / "data"
    with tempfile.TemporaryDirectory() as folder, host(Path(folder), "--max-answer", "60", data_dir=cache) as running:
        running.wait_sidecar()
        walk(running, args.base_url, args.model)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
