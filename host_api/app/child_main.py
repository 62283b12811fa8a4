"""The inside of a child of ``host_api.app.child``: limits first, then the function, then its answer."""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import GeneratorType
from typing import Any

from host_api.app.child import MIB, decode, encode
from host_api.loopback.limits import limit

_REFUSED = frozenset(
    {
        "socket.connect",
        "socket.bind",
        "socket.sendto",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "os.forkpty",
        "os.kill",
        "os.killpg",
    }
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = frozenset(
    {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown"}
)


def main() -> None:
    """Answer one request and end."""
    # Whatever a library prints must not get among the messages.
    answers = os.dup(1)
    os.dup2(2, 1)
    request = _request()
    _limit(request["limits"])
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        for value in _values(request["function"], request["args"]):
            _say(answers, {"kind": "value", "value": value})
        _say(answers, {"kind": "done"})
    except MemoryError:
        _say(answers, {"kind": "failed", "reason": "memory", "message": "it took more memory than it may"})
    except BaseException as exc:
        _say(answers, _failure(exc))
    # Not through the interpreter's own end: native libraries may hang there.
    sys.stderr.flush()
    os._exit(0)


def _failure(exc: BaseException) -> dict[str, Any]:
    status, code = getattr(exc, "status_code", None), getattr(exc, "code", None)
    if isinstance(status, int) and isinstance(code, str):
        return {"kind": "refused", "status": status, "code": code, "message": str(getattr(exc, "message", exc))}
    return {"kind": "failed", "reason": "error", "message": f"{type(exc).__name__}: {exc}"[:1000]}


def _request() -> dict[str, Any]:
    (size,) = struct.unpack(">Q", _read(8))
    found: dict[str, Any] = decode(_read(size))
    return found


def _read(size: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < size:
        piece = os.read(0, min(size - len(pieces), 1 << 20))
        if not piece:
            os._exit(1)
        pieces += piece
    return bytes(pieces)


def _say(answers: int, message: dict[str, Any]) -> None:
    view = memoryview(encode(message))
    while view:
        view = view[os.write(answers, view[: 1 << 20]) :]


def _values(name: str, args: list[Any]) -> Iterator[Any]:
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute)(*args)
    if isinstance(found, GeneratorType):
        yield from found
    else:
        yield found


def _end_with_parent() -> None:
    """Nothing more is sent: a read returns when the parent has closed the pipe or is gone."""
    with contextlib.suppress(OSError):
        os.read(0, 1)
    os._exit(1)


def _limit(limits: dict[str, Any]) -> None:
    limit(
        memory=limits["memory_mb"] * MIB,
        seconds=limits["cpu_seconds"],
        files=limits["files"],
        file_size=limits["file_mb"] * MIB,
    )
    sys.addaudithook(_auditor(str(Path.cwd())))


def _auditor(folder: str) -> Any:
    def inside(path: Any) -> bool:
        if isinstance(path, int):
            return True
        real = os.path.realpath(os.fsdecode(path))
        return real == folder or real.startswith(folder + os.sep) or real == os.devnull

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _REFUSED:
            raise PermissionError(f"{event} is not allowed while a document or a tool runs")
        writes = event == "open" and isinstance(args[2], int) and args[2] & _WRITES
        if (writes or event in _CHANGES) and not inside(args[0]):
            raise PermissionError(f"{args[0]}: nothing may be written here")

    return hook


if __name__ == "__main__":
    main()
