"""One look at a sidecar's ``/health`` over a plain socket: no client library, no proxy, no redirect."""

from __future__ import annotations

import errno
import json
import socket
import time
from typing import Any

from host_api.protocol.record import Probe, Record

_MAX = 256 * 1024  # bytes of an answer


def probe(record: Record, *, timeout: float = 1.0) -> Probe:
    """What answers at the record's address within ``timeout`` seconds. Never raises."""
    health = None
    try:
        health = health_of(record, timeout=timeout)
    except ConnectionRefusedError:
        return Probe.REFUSED
    except OSError as exc:
        return Probe.REFUSED if exc.errno in (errno.ECONNREFUSED, errno.EADDRNOTAVAIL) else Probe.SILENT
    except ValueError:
        return Probe.OTHER
    if health.get("instance_id") != record.instance_id:
        return Probe.OTHER
    return {"draining": Probe.DRAINING, "failed": Probe.FAILED}.get(str(health.get("status")), Probe.ECHO)


def health_of(record: Record, *, timeout: float = 1.0) -> dict[str, Any]:
    """The health document at the record's address. Raises OSError (no answer) or ValueError (not a sidecar's)."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(record.host, record.host)
    end = time.monotonic() + timeout
    with socket.create_connection((host, record.port), timeout=timeout) as sock:
        if sock.getsockname() == sock.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")
        sock.sendall(f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{record.port}\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while len(data) <= _MAX:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("no whole answer in time")
            sock.settimeout(left)
            part = sock.recv(65536)
            data += part
            if not part or _whole(data):
                break
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
    return _document(data)


def _whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value)
    return False


def _document(data: bytes) -> dict[str, Any]:
    head, found, body = data.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if not found or len(status) < 2 or not status[0].startswith(b"HTTP/1.") or status[1] != b"200":
        raise ValueError("not a health answer")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("not a health document")
    return document


def port_holder(host: str, port: int) -> str | None:
    """The program that listens on ``port``, for people; None when nothing answers there."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((target, port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                return None
        else:
            return None
    import psutil

    try:
        for conn in psutil.net_connections("tcp"):
            if conn.status == psutil.CONN_LISTEN and conn.laddr and conn.laddr.port == port and conn.pid:
                return f"{psutil.Process(conn.pid).name()}, pid {conn.pid}"
    except (psutil.Error, OSError):
        pass
    return "another program"
