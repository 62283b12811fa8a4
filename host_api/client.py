"""httpx clients that follow the sidecar through a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from host_api.host import Connection

Again = Callable[[], "Connection"]


def _unreached(answer: httpx.Response) -> bool:
    """A draining sidecar refuses before its engine sees the request, and says when to come again."""
    return answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and "retry-after" in answer.headers


def _redirect(request: httpx.Request, connection: Connection) -> httpx.Request:
    base = httpx.URL(connection.base_url)
    headers = httpx.Headers(request.headers)
    headers["host"] = base.netloc.decode("ascii")
    headers.update(connection.headers)
    url = request.url.copy_with(host=base.host, port=base.port)
    return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)


class _Retry(httpx.BaseTransport):
    def __init__(self, again: Again | None) -> None:
        self._inner = httpx.HTTPTransport()
        self._again = again
        self._moved: Connection | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self._moved is not None:
            request = _redirect(request, self._moved)
        replayable = self._again is not None and isinstance(request.stream, httpx.ByteStream)
        try:
            answer = self._inner.handle_request(request)
        except httpx.ConnectError:
            if not replayable:
                raise
        else:
            if not (replayable and _unreached(answer)):
                return answer
            answer.close()
        assert self._again is not None
        self._moved = self._again()
        return self._inner.handle_request(_redirect(request, self._moved))

    def close(self) -> None:
        self._inner.close()


class _AsyncRetry(httpx.AsyncBaseTransport):
    def __init__(self, again: Again | None) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self._again = again
        self._moved: Connection | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._moved is not None:
            request = _redirect(request, self._moved)
        replayable = self._again is not None and isinstance(request.stream, httpx.ByteStream)
        try:
            answer = await self._inner.handle_async_request(request)
        except httpx.ConnectError:
            if not replayable:
                raise
        else:
            if not (replayable and _unreached(answer)):
                return answer
            await answer.aclose()
        assert self._again is not None
        self._moved = await asyncio.to_thread(self._again)
        return await self._inner.handle_async_request(_redirect(request, self._moved))

    async def aclose(self) -> None:
        await self._inner.aclose()


def client(connection: Connection, again: Again | None, **kwargs: Any) -> httpx.Client:
    """A client for ``connection``; ``again`` gives the connection after a restart."""
    options: dict[str, Any] = {"timeout": httpx.Timeout(600.0, connect=5.0), "headers": connection.headers, **kwargs}
    return httpx.Client(base_url=connection.base_url, transport=_Retry(again), **options)


def async_client(connection: Connection, again: Again | None, **kwargs: Any) -> httpx.AsyncClient:
    """An asynchronous client for ``connection``."""
    options: dict[str, Any] = {"timeout": httpx.Timeout(600.0, connect=5.0), "headers": connection.headers, **kwargs}
    return httpx.AsyncClient(base_url=connection.base_url, transport=_AsyncRetry(again), **options)
