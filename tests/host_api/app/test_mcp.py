"""Tools of real MCP servers: found, asked for, run, and what is said when a server is none."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from host_api.app.chat import mcp
from host_api.app.chat.consent import Consents
from host_api.app.chat.mcp import Server, Servers
from host_api.app.data.database import Directory
from host_api.app.errors import ApiError
from tests.host_api.app.test_chat import body, chunks, user
from tests.support.host_servers import host
from tests.support.scripted import call, scripted
from tests.support.servers import wait_for

ROOT = Path(__file__).resolve().parents[3]
STDIO = {"command": sys.executable, "args": ["-m", "tests.support.mcp_server"], "env": {"PYTHONPATH": str(ROOT)}}


@asynccontextmanager
async def connected(settings: dict[str, Any]) -> AsyncIterator[Server]:
    server = Server("workshop", settings)
    try:
        yield server
    finally:
        await server.close()


def test_a_program_offers_its_tools_and_answers() -> None:
    async def main() -> None:
        async with connected({**STDIO, "env": {**STDIO["env"], "GIVEN": "yes"}}) as server:  # type: ignore[dict-item]
            assert await server.ready(), server.error
            assert {t.name for t in server.tools} == {"add", "picture", "end", "wait", "secret"}
            assert (await server.call("add", {"a": 2, "b": 3}))[0] == "5"
            (shown,) = await server.call("picture", {})
            assert shown.media_type == "image/png"
            assert shown.data[:4] == b"\x89PNG"
            assert await server.call("secret", {}) == ["yes None"], "keys of the service stay with it"
            wrong = await server.call("add", {"a": "two"})
            assert wrong[0] == "Error:"

    asyncio.run(main())


def test_a_program_that_dies_is_told_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp, "AGAIN", 0.2)

    async def main() -> None:
        async with connected(STDIO) as server:
            server._failed_at = 0
            with pytest.raises(ApiError, match="workshop ended amid end"):
                await server.call("end", {})
            await asyncio.sleep(0.5)
            assert server.state == "failed"
            assert (await server.call("add", {"a": 1, "b": 1}))[0] == "2"

    asyncio.run(main())


def test_a_tool_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp, "CALL", 1.0)

    async def main() -> None:
        async with connected(STDIO) as server:
            with pytest.raises(ApiError, match="longer than 1 s"):
                await server.call("wait", {"seconds": 30})

    asyncio.run(main())


def test_an_address_is_asked_over_http() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.support.mcp_server", "http", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def listening() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listening, 60)

        async def main() -> None:
            async with connected({"url": f"http://127.0.0.1:{port}/mcp"}) as server:
                assert await server.ready(), server.error
                assert (await server.call("add", {"a": 20, "b": 22}))[0] == "42"

        asyncio.run(main())
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"command": "/nothing/of/this/name"}, "FileNotFound|No such file"),
        ({"command": "true"}, "closed|MCPError|Closed"),
        ({"command": "cat", "args": ["/etc/hostname"]}, ""),
        ({"url": "http://127.0.0.1:9/mcp"}, "onnect"),
    ],
)
def test_what_is_no_server_is_said_in_words(
    settings: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp, "START", 5.0)

    async def main() -> None:
        async with connected(settings) as server:
            assert not await server.ready()
            assert server.error
            assert not why or any(word in server.error for word in why.split("|")), server.error

    asyncio.run(main())


def test_the_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"

    async def main() -> None:
        servers = Servers(path)
        assert await servers.all() == []
        path.write_text(json.dumps({"mcpServers": {"a": STDIO, "b": {"url": "http://127.0.0.1:9"}}}))
        first = {s.name: s for s in await servers.all()}
        assert set(first) == {"a", "b"}
        path.write_text("{ half")
        assert {s.name for s in await servers.all()} == {"a", "b"}
        assert "mcp.json" in (servers.error or "")
        path.write_text(json.dumps({"mcpServers": {"a": STDIO, "c": {}}}))
        await servers.all()
        assert "c has neither" in (servers.error or "")
        path.write_text(json.dumps({"mcpServers": {"a": STDIO}}))
        assert [s is first["a"] for s in await servers.all()] == [True]
        await servers.close()

    asyncio.run(main())


def test_consent_is_asked_once_or_given_for_good(tmp_path: Path) -> None:
    directory = Directory(tmp_path).open()
    database = directory.database()
    consents = Consents(database)

    async def asked(*, approved: bool, always: bool) -> bool:
        questions: list[dict[str, Any]] = []

        async def emit(_: str | None, chunk: dict[str, Any]) -> None:
            questions.append(chunk)
            await consents.answer(chunk["approvalId"], approved=approved, always=always)

        answer = await consents.ask("workshop/add", "c1", emit)
        assert not answer or questions or consents.allowed()
        return answer

    async def main() -> None:
        assert await asked(approved=False, always=True) is False
        assert consents.allowed() == []
        assert await asked(approved=True, always=False) is True
        assert consents.allowed() == []
        assert await asked(approved=True, always=True) is True
        assert consents.allowed() == ["workshop/add"]
        assert await asked(approved=False, always=False) is True, "it isn't asked any more"
        consents.forget("workshop/add")
        assert await asked(approved=False, always=False) is False
        with pytest.raises(ApiError):
            await consents.answer("unknown", approved=True, always=False)

    asyncio.run(main())
    database.close()
    directory.close()


def test_a_chat_calls_a_tool_when_its_user_lets_it(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "mcp.json").write_text(json.dumps({"mcpServers": {"workshop": STDIO}}))
    with (
        host(tmp_path, data_dir=data_dir) as running,
        scripted() as provider,
        running.client() as http,
        running.client() as other,
    ):
        made = http.post("/models/providers", json={"name": "scripted", "base_url": provider.url}).json()
        model = http.post(f"/models/provider/{made['id']}/discover").json()[0]["id"]
        for capability in ("tool_use", "text"):
            http.post(f"/models/global_capability/{capability}?wait=false", json={"model_id": model})
        listed = http.get("/mcp").json()
        assert listed["servers"][0]["state"] == "running", listed
        for approved in (False, True):
            provider.requests.clear()
            provider.steps = [[call("workshop_add", '{"a": 2, "b": 3}')], [{"content": "Done."}]]
            with http.stream("POST", "/chat/agent-stream", json=body(user("2+3?"))) as answer:
                events = []
                for event in chunks(answer):
                    events.append(event)
                    if event["type"] == "tool-approval-request":
                        url = f"/chat/approvals/{event['approvalId']}"
                        assert other.post(url, json={"approved": approved}).status_code == 204
            assert [e["type"] for e in events if e["type"].startswith("tool-")][-2:] == [
                "tool-approval-request",
                "tool-output-available",
            ]
            said = provider.requests[1]["messages"][-1]["content"]
            assert said == ("5" if approved else "The user did not allow this call.")
