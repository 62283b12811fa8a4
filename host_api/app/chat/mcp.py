"""Tools of MCP servers: programs (stdio) and addresses (streamable HTTP) that the user names in a file.

``mcp.json`` in the data directory has the form other programs use: ``{"mcpServers": {"files": {"command": "npx",
"args": [...], "env": {...}}, "wiki": {"url": "https://…/mcp", "headers": {...}}}}``. Every server is a task of its own
that connects when its tools are first asked for, says what is wrong when it can't, and is tried again after
``AGAIN`` seconds. The protocol is the official SDK's.

A tool runs when its user lets it: once, or always; the model's wish alone is never enough.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from host_api.app import outgoing
from host_api.app.errors import ApiError

log = logging.getLogger("host.mcp")

START = 30.0  # seconds a server may take to come up: npx and uvx fetch programs first
CALL = 120.0
AGAIN = 10.0
LONGEST = 20_000  # letters of a result
PICTURES = 4

Consent = Callable[[str, str, str | None, dict[str, Any]], Awaitable[bool]]
"""Asks the user: server, tool, the call's identifier, its arguments."""


class Server:
    """One server of the file. ``state``: off, starting, running or failed; ``error`` says why."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.name = name
        self.settings = settings
        self.state = "off"
        self.error: str | None = None
        self.tools: list[Any] = []
        self._session: Any = None
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._failed_at = -AGAIN

    async def ready(self) -> bool:
        """Return whether it can be used, connecting first where it isn't yet."""
        if self.state in ("off", "failed") and time.monotonic() - self._failed_at >= AGAIN:
            self.state, self.error = "starting", None
            self._settled.clear()
            self._task = asyncio.create_task(self._run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START + 5):
                await self._settled.wait()
        return self.state == "running"

    async def close(self) -> None:
        """Disconnect; a program of it ends."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task

    async def call(self, tool: str, arguments: dict[str, Any]) -> list[Any]:
        """Return what a tool says: texts, and pictures as PydanticAI's content. Raises ApiError."""
        from pydantic_ai import BinaryContent

        if not await self.ready():
            raise ApiError(502, f"{self.name} can't be reached: {self.error}", code="mcp_unavailable")
        try:
            async with asyncio.timeout(CALL):
                answer = await self._session.call_tool(tool, arguments)
        except TimeoutError:
            raise ApiError(504, f"{self.name}: {tool} took longer than {CALL:g} s.", code="mcp_timeout") from None
        except Exception as exc:
            if self._task is not None:
                self._task.cancel()
            raise ApiError(502, f"{self.name} ended amid {tool} ({_words(exc)}).", code="mcp_unavailable") from exc
        found: list[Any] = ["Error:"] if answer.is_error else []
        for part in answer.content:
            if part.type == "text":
                found.append(part.text[:LONGEST])
            elif part.type == "image" and sum(not isinstance(f, str) for f in found) < PICTURES:
                found.append(BinaryContent(base64.b64decode(part.data), media_type=part.mime_type))
            else:
                found.append(f"[{part.type}]")
        return found or ["(nothing)"]

    def document(self) -> dict[str, Any]:
        """Return it as JSON, without what may be secret."""
        kind = "stdio" if "command" in self.settings else "http"
        names = [{"name": t.name, "description": t.description or ""} for t in self.tools]
        return {"name": self.name, "kind": kind, "state": self.state, "error": self.error, "tools": names}

    async def _run(self) -> None:
        from mcp import ClientSession

        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(START):
                    read, write = await stack.enter_async_context(self._transport())
                    session = await stack.enter_async_context(ClientSession(read, write))
                    await session.initialize()
                    self.tools = await _all_tools(session)
                self._session, self.state = session, "running"
                log.info("MCP server %s has %d tools", self.name, len(self.tools))
                self._settled.set()
                while True:  # a program that dies, or an address that goes away, is noticed here
                    await asyncio.sleep(AGAIN)
                    async with asyncio.timeout(START):
                        await session.send_ping()
        except asyncio.CancelledError:
            self._ended("the connection was closed")
            raise
        except BaseException as exc:
            self._ended(f"no answer within {START:g} s" if isinstance(exc, TimeoutError) else _words(exc))

    def _ended(self, why: str) -> None:
        log.warning("MCP server %s: %s", self.name, why)
        self._session = None
        self.state, self.error, self._failed_at = "failed", why, time.monotonic()
        self._settled.set()

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[tuple[Any, Any]]:
        if command := self.settings.get("command"):
            from mcp import StdioServerParameters, stdio_client

            args, env = self.settings.get("args", []), self.settings.get("env")
            parameters = StdioServerParameters(command=command, args=list(map(str, args)), env=env)
            async with stdio_client(parameters) as (read, write):
                yield read, write
            return
        from mcp.client.streamable_http import streamable_http_client

        url = str(self.settings["url"])
        async with outgoing.sdk_client(url, timeout=CALL) as http:
            http.headers.update({str(k): str(v) for k, v in self.settings.get("headers", {}).items()})
            async with streamable_http_client(url, http_client=http) as streams:
                yield streams[0], streams[1]


async def _all_tools(session: Any) -> list[Any]:
    from mcp.types import PaginatedRequestParams

    found: list[Any] = []
    cursor = None
    for _ in range(50):
        page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor) if cursor else None)
        found += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return found


def _words(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}"[:300]


class Servers:
    """Those of the file, which is read again whenever it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[float, int] | None = None
        self._servers: dict[str, Server] = {}
        self.error: str | None = None

    async def close(self) -> None:
        """Disconnect from all."""
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    async def all(self) -> list[Server]:
        """Return the servers of the file as it is now."""
        try:
            stat = await asyncio.to_thread(self._path.stat)
            stamp = (stat.st_mtime, stat.st_size)
            text = await asyncio.to_thread(self._path.read_text, "utf-8") if stamp != self._read else None
        except FileNotFoundError:
            stamp, text = (0.0, 0), "{}"
        except (OSError, UnicodeDecodeError) as exc:
            self.error = f"{self._path.name} can't be read: {exc}"
            return list(self._servers.values())
        if text is not None and stamp != self._read:
            self._read = stamp
            await self._take(text)
        return list(self._servers.values())

    async def _take(self, text: str) -> None:
        try:
            wanted = json.loads(text).get("mcpServers", {})
            wrong = [n for n, s in wanted.items() if not isinstance(s, dict) or not ("command" in s or "url" in s)]
            if wrong:
                raise ValueError(f"{wrong[0]} has neither command nor url")
        except (ValueError, AttributeError) as exc:
            self.error = f"{self._path.name}: {exc}"
            return
        self.error = None
        for name in [n for n, s in self._servers.items() if wanted.get(n) != s.settings]:
            await self._servers.pop(name).close()
        for name, settings in wanted.items():
            if name not in self._servers:
                self._servers[name] = Server(name, settings)

    async def tools(self, consent: Consent) -> list[Any]:
        """Return the tools of every server that can be reached, as PydanticAI's; each asks ``consent`` first."""
        servers = await self.all()
        up = await asyncio.gather(*(server.ready() for server in servers))
        return [
            _tool(server, tool, consent)
            for server, ready in zip(servers, up, strict=True)
            if ready
            for tool in server.tools
        ]


def _tool(server: Server, tool: Any, consent: Consent) -> Any:
    from pydantic_ai import RunContext, Tool, ToolReturn

    async def run(ctx: RunContext[None], **arguments: Any) -> Any:
        if not await consent(server.name, tool.name, ctx.tool_call_id, arguments):
            return "The user did not allow this call."
        try:
            found = await server.call(tool.name, arguments)
        except ApiError as exc:
            return f"Error: {exc.message}"
        said = "\n".join(part for part in found if isinstance(part, str))
        pictures = [part for part in found if not isinstance(part, str)]
        if not pictures:
            return said
        return ToolReturn(return_value=said or "See the pictures.", content=pictures)

    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{server.name}_{tool.name}")[:64]
    return Tool.from_schema(
        run, name=name, description=tool.description or tool.name, json_schema=tool.input_schema, takes_ctx=True
    )
