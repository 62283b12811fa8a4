"""No key leaves for another origin than the one it was given for, and nothing of the built-in model for a proxy."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host_api.app import outgoing
from host_api.app.errors import ApiError
from tests.host_api.app.test_chat import PARIS, chat, text, user
from tests.host_api.app.test_chat import body as question
from tests.support.host_servers import HostProcess, host
from tests.support.servers import wait_for


@dataclass
class Listener:
    """A server that answers as OpenAI's does, or sends elsewhere, and remembers which keys came."""

    url: str = ""
    elsewhere: str | None = None
    keys: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def listener() -> Iterator[Listener]:
    found = Listener()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            found.bodies.append(self.rfile.read(int(self.headers.get("content-length") or 0)))
            found.paths.append(self.path)
            found.keys += [v for k, v in self.headers.items() if k.lower() in ("authorization", "x-api-key", "api-key")]
            if found.elsewhere:
                self.send_response(307)
                self.send_header("location", found.elsewhere + self.path)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            message = {"role": "assistant", "content": "hello"}
            document: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            if self.path.endswith("/models"):
                document = {"data": [{"id": "m"}]}
            elif self.path.endswith("/embeddings"):
                document = {"data": [{"index": 0, "embedding": [0.5, 0.5]}]}
            data = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_CONNECT = _answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[HostProcess]:
    """A host whose built-in model is off, so that every request goes to a provider."""
    with host(tmp_path_factory.mktemp("origins"), data_dir=data_dir) as running:
        running.wait_seeded()
        with running.client() as http:
            for capability in ("text", "vision", "structured_output", "tool_use", "embedding"):
                http.post(f"/models/global_capability/{capability}", json={"model_id": None}).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def three() -> Iterator[list[Listener]]:
    with listener() as a, listener() as b, listener() as c:
        yield [a, b, c]


STEP = st.tuples(
    st.sampled_from(
        ["add", "move", "move", "rename", "key", "forget", "discover", "discover", "use", "redirect", "any"]
    ),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 10_000),
)


def _use(http: httpx.Client, model: int) -> None:
    """Everything that makes the service ask a model."""
    http.post(f"/models/confirm_capability/{model}", json={"capabilities": ["text", "embedding"]})
    http.post("/models/global_capability/text?wait=false", json={"model_id": model})
    http.post("/chat/agent-stream", json=question(user("Hi"), model_id=model))
    http.post("/tasks/tag", json={"text": f"Bread {uuid.uuid4().hex}"})


def _any(http: httpx.Client, number: int, providers: list[str], url: str) -> None:
    """Some route of all there are, with what is at hand."""
    routes = [
        (method, path)
        for path, operations in http.get("/openapi.json").json()["paths"].items()
        for method in operations
        if "restart" not in path and not path.endswith(("/events", "/stream"))
    ]
    method, path = routes[number % len(routes)]
    filled = path
    for name in ("provider_id", "model_id", "capability", "task_id", "session_id", "model", "digest"):
        value = {"provider_id": providers[number % len(providers)] if providers else "x", "capability": "text"}
        filled = filled.replace("{" + name, "{").replace("{}", value.get(name, "1"), 1).replace("{:path}", "1")
    bodies: list[Any] = [None, {}, {"base_url": url}, {"base_url": url, "name": uuid.uuid4().hex}, {"query": "x"}]
    http.request(method, filled, json=bodies[number % len(bodies)])


@given(st.lists(STEP, min_size=4, max_size=14))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_key_never_leaves_for_another_origin(
    alone: HostProcess, three: list[Listener], steps: list[tuple[str, int, int, int]]
) -> None:
    given_for: dict[str, str] = {}

    def fresh_key(url: str) -> str:
        key = f"sk-{uuid.uuid4().hex}"
        given_for[key] = url
        return key

    with alone.client() as http:
        providers: list[str] = []
        where: dict[str, str] = {}

        def add(number: int) -> None:
            url = three[number].url
            body = {"name": uuid.uuid4().hex, "base_url": f"{url}/v1", "api_key": fresh_key(url)}
            made = http.post("/models/providers", json=body).json()["id"]
            providers.append(made)
            where[made] = url

        add(0)
        for what, which, to, number in steps:
            provider = providers[which % len(providers)]
            path = f"/models/providers/{provider}"
            url = three[to].url
            if what == "add":
                add(to)
            elif what == "move":
                moved = http.put(path, json={"base_url": f"{url}/v{number % 3}"})
                if moved.status_code == 200 and url != where[provider]:
                    assert moved.json()["has_key"] is False
                    where[provider] = url
            elif what == "rename":
                http.put(path, json={"name": uuid.uuid4().hex, "base_url": f"{where[provider]}/v1"})
            elif what == "key":
                where[provider] = url
                http.put(path, json={"base_url": f"{url}/v1", "api_key": fresh_key(url)}).raise_for_status()
            elif what == "forget":
                http.put(path, json={"api_key": ""})
            elif what == "discover":
                http.post(f"/models/provider/{provider}/discover")
            elif what == "use":
                http.post(f"/models/provider/{provider}/discover")
                found = http.get(f"/models?provider_id={provider}").json()
                if found:
                    _use(http, found[0]["id"])
            elif what == "redirect":
                three[which].elsewhere = url if number % 2 and which != to else None
            else:
                _any(http, number, providers, f"{url}/v1")
                left = {p["id"]: p["base_url"] for p in http.get("/models/providers").json() if p["id"] != "builtin"}
                providers[:] = list(left)
                where.update({p: address.rpartition("/v")[0] for p, address in left.items()})
                if not providers:
                    add(0)
        for job in http.get("/tasks").json():
            http.post(f"/tasks/{job['id']}/cancel")
        for one in providers:
            http.delete(f"/models/providers/{one}")
    for server in three:
        server.elsewhere = None
        for sent in server.keys:
            key = sent.removeprefix("Bearer ")
            if key in given_for:
                assert given_for[key] == server.url, f"a key for {given_for[key]} came to {server.url}"
        server.keys.clear()


def test_a_key_does_reach_its_own_origin(alone: HostProcess, three: list[Listener]) -> None:
    with alone.client() as http:
        body = {"name": "own", "base_url": f"{three[0].url}/v1", "api_key": "sk-own"}
        made = http.post("/models/providers", json=body).json()
        three[0].keys.clear()
        http.post(f"/models/provider/{made['id']}/discover").raise_for_status()
        assert three[0].keys == ["Bearer sk-own"]
        moved = http.put(f"/models/providers/{made['id']}", json={"base_url": f"{three[0].url}/other/v1"}).json()
        assert moved["has_key"] is True, "another path of the same origin"
        moved = http.put(f"/models/providers/{made['id']}", json={"base_url": f"{three[1].url}/v1"}).json()
        assert moved["has_key"] is False
        http.delete(f"/models/providers/{made['id']}")


def test_nothing_for_the_built_in_model_goes_through_a_proxy(tmp_path: Path, data_dir: Path) -> None:
    with listener() as proxy:
        env = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), proxy.url)
        with host(tmp_path, "--max-answer", "30", data_dir=data_dir, env=env) as running, running.client() as http:
            running.wait_seeded()
            assert "Paris" in text(chat(http, question(user(PARIS))))
            tagged = http.post("/tasks/tag", json={"text": "Bread is baked from flour."}).json()
            wait_for(lambda: http.get(f"/tasks/{tagged['id']}").json()["state"] in ("done", "failed"), 60)
            assert http.get(f"/tasks/{tagged['id']}").json()["state"] == "done"
            assert http.get("/models/catalogue").status_code == 200
            assert proxy.paths == []
            # Another's server is asked through it: that the proxy is one is seen by this.
            made = http.post("/models/providers", json={"name": "far", "base_url": "http://far.example/v1"}).json()
            http.post(f"/models/provider/{made['id']}/discover").raise_for_status()
            assert proxy.paths == ["http://far.example/v1/models"]


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:60316/v1", True),
        ("http://127.8.8.8/v1", True),
        ("http://localhost:11434/v1", True),
        ("http://[::1]:8000", True),
        ("http://localhost.evil.example/v1", False),
        ("https://api.openai.com/v1", False),
        ("http://192.168.1.2:8000", False),
        ("http://127.0.0.1.nip.io", False),
    ],
)
def test_which_addresses_are_this_machine(url: str, own: bool) -> None:
    assert outgoing.on_this_machine(url) is own
    if own:
        assert not outgoing.through_proxy(url)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "socks5h://127.0.0.1:1", "nonsense://x", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_an_error_in_words(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    for make in (
        lambda: outgoing.client("http://far.example/v1", key="k", timeout=1.0),
        lambda: outgoing.sdk_client("http://far.example/v1", timeout=1.0),
    ):
        if proxy.startswith("socks5"):
            make()
        else:
            with pytest.raises(ApiError, match="look at HTTPS_PROXY"):
                make()


@pytest.mark.parametrize("url", ["https://api.example/v1", "https://127.0.0.1:8443/v1", "http://gpu.lan/v1"])
def test_one_context_checks_the_certificates_of_all_clients(url: str) -> None:
    context = outgoing._verifier(url)
    assert isinstance(context, ssl.SSLContext)
    assert context is outgoing._verifier("https://other.example")
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    nobody = outgoing._verifier("http://127.0.0.1:60316/v1")
    assert nobody is outgoing._verifier("http://localhost:1/v1"), "no TLS there, and none is set up each time"
    assert nobody is not context
    assert nobody.get_ca_certs() == [], "and whoever offers some is not trusted"
