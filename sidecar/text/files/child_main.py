"""The inside of the child that reads files: limits first, then the file, then its pages."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from host_api.loopback.limits import limit
from sidecar.text.files.child import Job
from sidecar.text.files.pages import FileRead, ReadError, Unreadable

_REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> int:
    """Read the file on standard input and write its pages to standard output."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not get among the answer
    job = msgspec.msgpack.Decoder(Job).decode(sys.stdin.buffer.read())
    limit(memory=job.memory, seconds=job.seconds, files=64, file_size=0)
    sys.addaudithook(_watch)
    found: FileRead | Unreadable
    try:
        from sidecar.text.files.reader import read

        found = read(job.name, job.kind, job.data, job.wanted)
    except ReadError as exc:
        found = Unreadable(message=str(exc))
    except MemoryError:
        found = Unreadable(message="it takes more memory to read than it may; send less of it")
    except Exception as exc:  # readers raise what they like over a damaged file
        found = Unreadable(message=f"it can't be read ({type(exc).__name__}: {str(exc)[:200]}); is it damaged?")
    view = memoryview(msgspec.msgpack.encode(found))
    while view:
        view = view[os.write(answers, view[: 1 << 20]) :]
    os._exit(0)  # native libraries may hang at the interpreter's own end


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event.startswith(_REFUSED):
        raise PermissionError(f"{event} is not allowed while a file is read")
    if event == "open" and isinstance(args[2], int) and args[2] & _WRITES and args[0] != os.devnull:
        raise PermissionError("nothing may be written while a file is read")
