"""What a child process is asked to do in tests: to misbehave in every way the limits are for."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Refused(Exception):
    """An error for the person who asked."""

    status_code = 422
    code = "document_broken"
    message = "The PDF can't be opened."


def echo(*args: Any) -> list[Any]:
    sys.stdout.write("a library prints\n")
    os.write(1, b"so does native code")
    return list(args)


def count(to: int) -> Iterator[int]:
    yield from range(to)


def allocate(megabytes: int) -> int:
    blocks = []
    for _ in range(megabytes):
        blocks.append(bytearray(os.urandom(1024) * 1024))
        time.sleep(0.0005)
    return len(blocks)


def reserve(gigabytes: int) -> int:
    return len(bytearray(gigabytes << 30))


def hold_the_interpreter() -> int:
    return round(5, -1_000_000_000)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def crash() -> None:
    ctypes.string_at(0)


def leave(status: int) -> None:
    os._exit(status)


def refuse() -> None:
    raise Refused


def fail() -> None:
    raise RuntimeError("broken inside")


def connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def connect_past_python(port: int) -> int:
    """Connect through libc; the errno, 0 when it worked."""
    libc = ctypes.CDLL(None, use_errno=True)
    sock = libc.socket(2, 1, 0)
    address = (2).to_bytes(2, sys.byteorder) + port.to_bytes(2, "big") + bytes((127, 0, 0, 1)) + bytes(8)
    return 0 if libc.connect(sock, address, len(address)) == 0 else ctypes.get_errno()


def start() -> None:
    subprocess.run(["true"], check=True)


def write(path: str) -> str:
    Path(path).write_text("x")
    return Path(path).read_text()


def open_files(number: int) -> int:
    return len([os.open("/dev/null", os.O_RDONLY) for _ in range(number)])


def environment() -> dict[str, str]:
    return dict(os.environ)


def pid_then_sleep() -> Iterator[int]:
    yield os.getpid()
    time.sleep(600)


def pid_then_hold() -> Iterator[int]:
    yield os.getpid()
    yield hold_the_interpreter()


def pid() -> int:
    return os.getpid()
