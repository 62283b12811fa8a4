"""A provider that says what a test tells it to, over OpenAI's streaming protocol on a real socket."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = list[dict[str, Any]] | int | str | tuple[int, Any]


@dataclass
class Scripted:
    """``steps`` are answered in turn; ``requests`` is what came.

    A list of deltas is streamed (one with ``error`` as the error amid a stream), a text is one whole answer, a number
    an HTTP error status; a status and a body (bytes, or what becomes JSON) are sent as they are. ``models`` is the
    answer to /models.
    """

    url: str = ""
    steps: list[Step] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    models: Any = field(default_factory=lambda: {"object": "list", "data": [{"id": "scripted", "object": "model"}]})


def call(name: str, arguments: str) -> dict[str, Any]:
    """A delta that calls a function."""
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}


@contextlib.contextmanager
def scripted() -> Iterator[Scripted]:
    """Serve until the end of the block."""
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            found = self.path == "/v1/models"
            self._json(200 if found else 404, script.models if found else {"detail": "Not Found"})

        def do_POST(self) -> None:
            script.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            step = script.steps.pop(0)
            if isinstance(step, int):
                self._json(step, {"error": {"message": "the script says no", "type": "server_error"}})
                return
            if isinstance(step, tuple):
                self._json(*step)
                return
            if isinstance(step, str):
                message = {"role": "assistant", "content": step}
                self._json(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            called = any("tool_calls" in d for d in step)
            for i, delta in enumerate([*step, {}]):
                reason = ("tool_calls" if called else "stop") if i == len(step) else None
                choice = {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": reason}
                chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
                event = delta if "error" in delta else {**chunk, "choices": [choice]}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

        def _json(self, status: int, body: dict[str, Any] | bytes) -> None:
            plain = isinstance(body, bytes)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if plain else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
