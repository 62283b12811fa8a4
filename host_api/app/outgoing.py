"""The one place where HTTP clients of the service are made, so that what goes out goes to one origin only.

* The built-in model and every other server on this machine are asked without a proxy, whatever the environment or
  the system's settings say: a proxy would get the question and the key.
* Other servers are asked through the proxy that the environment or the system names, and without it where its list of
  exceptions says so.
* Redirects are not followed: a server that moved is named in words, and neither the key nor the question goes along.
"""

from __future__ import annotations

import ipaddress
import ssl
import urllib.request
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from host_api.app.errors import ApiError


def on_this_machine(url: str) -> bool:
    """Return whether an address is this machine's own."""
    name = (urlsplit(url).hostname or "").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def through_proxy(url: str) -> bool:
    """Return whether a proxy may be used for an address, if the environment or the system names one."""
    if on_this_machine(url):
        return False
    try:
        return not urllib.request.proxy_bypass(urlsplit(url).netloc.rpartition("@")[2])
    except (OSError, ValueError):
        return True


def sdk_client(url: str, *, timeout: float, connect: float = 10.0) -> Any:
    """Return the same for OpenAI's SDK, which has its own idea of an HTTP client. Raises ApiError for a bad proxy."""
    from openai import DefaultAsyncHttpxClient, Timeout

    try:
        return DefaultAsyncHttpxClient(
            timeout=Timeout(timeout, connect=connect),
            trust_env=through_proxy(url),
            follow_redirects=False,
            verify=_verifier(url),
        )
    except Exception as exc:  # of a library of the SDK's choice
        raise _bad_proxy(url, exc) from exc


def client(url: str, *, key: str | None, timeout: float, connect: float = 10.0) -> httpx.AsyncClient:
    """Return a client for the server at ``url``, whose requests carry ``key``. Raises ApiError for a bad proxy."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        return httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=connect),
            trust_env=through_proxy(url),
            follow_redirects=False,
            verify=_verifier(url),
        )
    except (ValueError, ImportError, httpx.InvalidURL) as exc:
        raise _bad_proxy(url, exc) from exc


def _verifier(url: str) -> ssl.SSLContext:
    """Return how certificates are checked: by one context for all clients, and one that trusts nobody where none comes.

    A client makes its own otherwise, which takes 29 ms of the event loop's time, each second while a page is open.
    """
    if urlsplit(url).scheme == "http" and on_this_machine(url):
        return _nobody()  # no TLS, no proxy, no redirect
    return _context()


@cache
def _nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@cache
def _context() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _bad_proxy(url: str, exc: Exception) -> ApiError:
    message = f"The proxy for {url} can't be used ({exc}); look at HTTPS_PROXY, HTTP_PROXY and ALL_PROXY."
    return ApiError(502, message, code="proxy_invalid")
