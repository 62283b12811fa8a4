"""A request for every endpoint of the host service, sent all at once while something they need hangs."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.host_servers import HostProcess


def requests(http: httpx.Client) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return what is sent to each operation of the service: its address and httpx's arguments for it.

    Raises AssertionError for an operation that has none here, so that a new endpoint meets these troubles too.
    """
    model = http.get("/models").json()[0]["id"]
    part = {"type": "text", "text": f"Hi {uuid.uuid4().hex}"}
    message = {"id": uuid.uuid4().hex, "role": "user", "parts": [part]}
    chat = {"id": uuid.uuid4().hex, "trigger": "submit-message", "messages": [message], "documents": True}
    provider = {"name": uuid.uuid4().hex, "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-1"}
    upload = {"file": ("a.txt", uuid.uuid4().bytes.hex().encode())}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "POST /sidecar/restart": ("/sidecar/restart", {}),
        "POST /models/providers": ("/models/providers", {"json": provider}),
        "PUT /models/providers/{provider_id}": ("/models/providers/none", {"json": {"name": "x"}}),
        "POST /models/global_capability/{capability}": (
            "/models/global_capability/text",
            {"json": {"provider_id": "builtin", "model": "starter"}},
        ),
        "POST /models/confirm_capability/{model_id}": (f"/models/confirm_capability/{model}", {"json": {}}),
        "POST /models/pulls": ("/models/pulls", {"json": {"model": "nothing"}}),
        "POST /chat/agent-stream": ("/chat/agent-stream", {"json": chat}),
        "PATCH /chat/sessions/{session_id}": ("/chat/sessions/none", {"json": {"title": "x"}}),
        "POST /chat/approvals/{approval_id}": ("/chat/approvals/none", {"json": {"approved": False}}),
        "POST /tasks/tag": ("/tasks/tag", {"json": {"text": f"Bread {uuid.uuid4().hex}"}}),
        "POST /tasks/index": ("/tasks/index", {"files": upload}),
        "POST /chat/files": ("/chat/files", {"files": upload}),
        "POST /search": ("/search", {"json": {"query": "bread"}}),
        "POST /folders": ("/folders", {"json": {"path": "/nowhere"}}),
        "GET /models/global_capability/{capability}": ("/models/global_capability/text", {}),
        "GET /chat/files/{digest}": (f"/chat/files/{'0' * 64}", {}),
    }
    operations = {
        f"{method.upper()} {path}": path
        for path, methods in http.get("/openapi.json").json()["paths"].items()
        for method in methods
    }
    for name, path in operations.items():
        plain = path.split("/")
        if name not in found and not name.startswith(("PUT", "PATCH")):
            found[name] = ("/".join("none" if part.startswith("{") else part for part in plain), {})
    assert not set(operations) - set(found), f"say what is sent to {set(operations) - set(found)}"
    return {name: found[name] for name in operations}


class Burst:
    """Every endpoint asked at once, each by a window of its own; ``answers`` are those that came."""

    def __init__(self, running: HostProcess, asked: dict[str, tuple[str, dict[str, Any]]]) -> None:
        self.answers: dict[str, int] = {}
        self._running = running
        self._threads = [threading.Thread(target=self._ask, args=(n, *a), daemon=True) for n, a in asked.items()]
        self._names = set(asked)
        for thread in self._threads:
            thread.start()

    def _ask(self, name: str, url: str, more: dict[str, Any]) -> None:
        method = name.split()[0]
        with (
            contextlib.suppress(httpx.HTTPError),
            self._running.client() as http,
            http.stream(method, url, **more) as answer,
        ):
            if name not in ("GET /events", "POST /chat/agent-stream"):
                answer.read()
            self.answers[name] = answer.status_code

    @property
    def pending(self) -> set[str]:
        """The endpoints that have not answered yet."""
        return self._names - set(self.answers)

    def join(self, seconds: float) -> None:
        """Wait for every answer."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        assert not self.pending, f"no answer in {seconds:g} s: {self.pending}"


@contextlib.contextmanager
def asked_everything(running: HostProcess) -> Iterator[Burst]:
    """Ask every endpoint; in the block /health has answered many times since, whatever the others wait for."""
    with running.client() as http:
        asked = requests(http)
    asked = {name: how for name, how in asked.items() if name != "GET /health"}
    burst = Burst(running, asked)
    time.sleep(0.2)  # they are on their way
    with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as http:
        for _ in range(20):
            http.get("/health").raise_for_status()
    yield burst
