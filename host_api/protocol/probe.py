"""One look at a sidecar's ``/health`` over a plain socket: no client library, no proxy, no redirect."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from host_api.protocol.decision import HealthAnswer
from host_api.protocol.record import Record

OUR_OWN = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_MAX = 256 * 1024  # bytes of an answer


def probe(record: Record, *, timeout: float = 1.0) -> HealthAnswer:
    """Return what answers at the record's address within ``timeout`` seconds. Raises as ``ask``."""
    return ask(record, timeout=timeout)[0]


def ask(record: Record, *, timeout: float = 1.0) -> tuple[HealthAnswer, dict[str, Any] | None]:
    """Ask the record's address for its health: the kind of answer, and the document if there is one.

    Raises OSError where this process itself lacks what asking takes (descriptors, memory): that says nothing about the
    sidecar.
    """
    health = None
    try:
        health = health_of(record, timeout=timeout)
    except ConnectionRefusedError:
        return HealthAnswer.REFUSED, None
    except OSError as exc:
        if exc.errno in OUR_OWN:
            raise
        refused = exc.errno in (errno.ECONNREFUSED, errno.EADDRNOTAVAIL)
        return HealthAnswer.REFUSED if refused else HealthAnswer.SILENT, None
    except (ValueError, RecursionError):  # whatever a stranger says: JSON 200,000 levels deep, too
        return HealthAnswer.OTHER, None
    if health.get("instance_id") != record.instance_id:
        return HealthAnswer.OTHER, None
    words = {"draining": HealthAnswer.DRAINING, "failed": HealthAnswer.FAILED}
    return words.get(str(health.get("status")), HealthAnswer.ECHO), health


def health_of(record: Record, *, timeout: float = 1.0) -> dict[str, Any]:
    """The health document at the record's address. Raises OSError (no answer) or ValueError (not a sidecar's)."""
    end = time.monotonic() + timeout
    with socket.create_connection((record.address, record.port), timeout=timeout) as sock:
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
    try:
        document = json.loads(body)
    except RecursionError as exc:
        raise ValueError("not a health document") from exc
    if not isinstance(document, dict):
        raise ValueError("not a health document")
    return document


def port_holder(host: str, port: int) -> str | None:
    """Return the program that listens on ``port``, for people; None when nothing does."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        if sys.platform != "darwin":  # BSD lets 127.0.0.1 be bound beside another's 0.0.0.0 with it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((target, port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                return None
        else:
            return None
    return listener_of(port) or "another program"


def listener_of(port: int) -> str | None:
    """Return name and PID of the process that listens on ``port``, for people; None where it can't be told.

    Only asked before an error is shown, so that its cost doesn't matter. Standard library alone.
    """
    try:
        return _listener_by_proc(port) if sys.platform.startswith("linux") else _listener_by_lsof(port)
    except (OSError, ValueError, IndexError):
        return None


def _listener_by_proc(port: int) -> str | None:
    wanted = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":  # LISTEN
                    wanted.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and any(str(fd.readlink()) in wanted for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text('utf-8').strip()}, pid {process.name}"
    return None


def _listener_by_lsof(port: int) -> str | None:
    import subprocess  # only here: it costs every host milliseconds

    command = ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.splitlines()
    fields = {line[:1]: line[1:] for line in reversed(lines)}
    return f"{fields['c']}, pid {fields['p']}" if {"c", "p"} <= fields.keys() else None
