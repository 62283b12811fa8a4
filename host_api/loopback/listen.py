"""Listening sockets: on the preferred port, or on another one when it is taken."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
import sys

log = logging.getLogger("host_api.listen")


class PortTaken(OSError):
    """The port is busy and no other may be taken; the message names the program that has it, where it is known."""


def bind(host: str, port: int, *, strict: bool) -> socket.socket:
    """Return a listening socket on ``port``, or on any free one when it is busy and ``strict`` is off.

    Raises PortTaken, or OSError when the address itself can't be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in (port, 0):
        # asyncio sets TCP_NODELAY only where the protocol is named; without it small answers wait 40 ms.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            # On macOS and the BSDs SO_REUSEADDR lets 127.0.0.1:p be bound beside somebody's 0.0.0.0:p, whose clients
            # would then come here. Without it a restart would meet its own closed connections; so ask first.
            if candidate and sys.platform != "linux" and answers(host, candidate):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, candidate))
            sock.listen(512)
        except OSError as exc:
            sock.close()
            if exc.errno not in (errno.EADDRINUSE, errno.EACCES) or candidate == 0:
                raise
            if strict:
                raise PortTaken(f"port {port} on {host} is busy ({holder(port)})") from exc
            log.warning("port %d is busy (%s); taking another", port, holder(port))
            continue
        sock.setblocking(False)
        return sock
    raise AssertionError("unreachable")


def beside(sock: socket.socket) -> list[socket.socket]:
    """Return ``sock`` and, where it listens on 127.0.0.1, a socket on the same port of ``::1``.

    Many clients ask ``localhost`` at ``::1`` first. What is published stays the address of ``sock``: a machine without
    IPv6, or another program on that port of ``::1``, changes nothing but that one way in. Programs that look for who
    holds a port ask 127.0.0.1.
    """
    host, port = sock.getsockname()[:2]
    if host != "127.0.0.1" or not socket.has_ipv6:
        return [sock]
    try:
        if sys.platform != "linux" and answers("::1", port):  # see ``bind``
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        other = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as exc:
        log.info("not listening on [::1]:%d (%s)", port, exc.strerror)
        return [sock]
    try:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if os.name == "posix":
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("::1", port))
        other.listen(512)
    except OSError as exc:
        other.close()
        log.info("not listening on [::1]:%d (%s)", port, exc.strerror)
        return [sock]
    other.setblocking(False)
    return [sock, other]


def answers(host: str, port: int) -> bool:
    """Return whether some program accepts connections at ``host`` and ``port`` now."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False


def holder(port: int) -> str:
    """Return who listens on ``port``, in words for people; best effort."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for conn in psutil.net_connections("tcp"):
            if conn.status == psutil.CONN_LISTEN and conn.laddr and conn.laddr.port == port and conn.pid:
                return f"used by {psutil.Process(conn.pid).name()}, pid {conn.pid}"
    return "used by another program"


def url_of(sock: socket.socket) -> str:
    """Return ``http://host:port`` of a bound socket."""
    host, port = sock.getsockname()[:2]
    return f"http://{'[' + host + ']' if ':' in host else host}:{port}"


def beyond_loopback(host: str) -> bool:
    """Return whether an address to bind can be reached from other machines; a name that isn't one of ours may be."""
    if host.lower() in ("localhost", "localhost.localdomain", "ip6-localhost"):
        return False
    try:
        return not ipaddress.ip_address(host.partition("%")[0].strip("[]")).is_loopback
    except ValueError:
        return True
