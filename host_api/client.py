"""httpx clients that follow the sidecar through a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import httpx


class Address(Protocol):
    """Where a sidecar is and what it wants to see: what ``host_api.connection.Connection`` has."""

    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> dict[str, str]: ...


Again = Callable[[], Address]


def _unreached(answer: httpx.Response) -> bool:
    """A draining sidecar refuses before its engine sees the request, and says when to come again."""
    return answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and "retry-after" in answer.headers


def _redirect(request: httpx.Request, to: Address) -> httpx.Request:
    base = httpx.URL(to.url)
    headers = httpx.Headers(request.headers)
    headers["host"] = base.netloc.decode("ascii")
    headers.update(to.headers)
    url = request.url.copy_with(host=base.host, port=base.port)
    return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)


class _Retry(httpx.BaseTransport):
    def __init__(self, again: Again | None) -> None:
        self._inner = httpx.HTTPTransport()
        self._again = again
        self._moved: Address | None = None

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
        self._moved: Address | None = None

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


def _options(to: Address, given: dict[str, Any]) -> dict[str, Any]:
    """The caller's options over ours; its headers come beside the token, not in its place."""
    headers = httpx.Headers(to.headers)
    headers.update(given.pop("headers", None))
    return {"base_url": to.url, "timeout": httpx.Timeout(600.0, connect=5.0), "headers": headers, **given}


def client(to: Address, again: Again | None, **kwargs: Any) -> httpx.Client:
    """Make a client for the sidecar at ``to``; ``again`` gives its address after a restart."""
    return httpx.Client(transport=_Retry(again), **_options(to, kwargs))


def async_client(to: Address, again: Again | None, **kwargs: Any) -> httpx.AsyncClient:
    """Make an asynchronous client for the sidecar at ``to``."""
    return httpx.AsyncClient(transport=_AsyncRetry(again), **_options(to, kwargs))
