"""The child that reads files: started for one file, limited in memory, time and descriptors, gone afterwards.

Files are of strangers, and readers of PDF are native code. So they run in a process that may compute for so long, hold
so much and open nothing but what it was given; on Linux it leaves the network. Linux keeps the limit of memory itself;
macOS knows no such limit, so that its memory is looked at ten times a second as well.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import lru_cache
from hashlib import sha256
from typing import IO, Any

import msgspec
import psutil

from sidecar.text.files.pages import FileRead, Unreadable, Wanted

COMMAND = "read-file"
MEMORY = 1536 << 20
"""Bytes the child may hold."""
SECONDS = 60.0
"""Seconds a file may take, start included."""
_AT_ONCE = threading.Semaphore(2)
_LOOK = 0.1
_CACHED = 64 << 20  # bytes of pages kept for the next turn of a conversation


class FileError(Exception):
    """A file that can't be read; the message says what to do, and ends as a sentence does."""

    def __init__(self, message: str) -> None:
        super().__init__(message if message.endswith(("?", ".", "!")) else f"{message}.")


class Job(msgspec.Struct):
    """What the child is given on its standard input."""

    name: str
    kind: str
    data: bytes
    wanted: Wanted
    memory: int
    seconds: int


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(dict[str, Any])
_cache: dict[tuple[str, str, Wanted], FileRead] = {}
_lock = threading.Lock()


def read(
    name: str, kind: str, data: bytes, wanted: Wanted, *, seconds: float = SECONDS, memory: int = MEMORY
) -> FileRead:
    """Return a file's pages. ``kind``: its media type, "" when it is not known. Raises FileError. Blocking."""
    key = (sha256(data).hexdigest(), f"{kind} {name.rpartition('.')[2].lower()}", wanted)
    with _lock:
        if (found := _cache.get(key)) is not None:
            return found
    with _AT_ONCE:
        answer = _run(Job(name, kind, data, wanted, memory, max(1, round(seconds))), seconds, memory)
    try:
        message = _decoder.decode(answer)
        if "message" in message:
            raise FileError(msgspec.convert(message, Unreadable).message)
        found = msgspec.convert(message, FileRead)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise FileError("it can't be read (its reader gave no answer)") from exc
    with _lock:
        _cache[key] = found
        while sum(map(_size, _cache.values())) > _CACHED:
            del _cache[next(iter(_cache))]
    return found


def _size(found: FileRead) -> int:
    return len(found.samples) + sum(len(p.text) + len(p.picture or b"") for p in found.pages)


@lru_cache(maxsize=1)
def _program() -> tuple[str, ...]:
    if getattr(sys, "frozen", False):
        return (sys.executable, COMMAND)
    return (sys.executable, "-m", "sidecar.entry", COMMAND)


def _run(job: Job, seconds: float, memory: int) -> bytes:
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(
                _program(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, start_new_session=True
            )
        except OSError as exc:
            raise FileError(f"no process can be started to read it ({exc.strerror}); try again later") from exc
        try:
            return _answer(process, _encode(job), seconds, memory)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what the child did not take
                    if pipe is not None:
                        pipe.close()


def _answer(process: subprocess.Popen[bytes], request: bytes, seconds: float, memory: int) -> bytes:
    # Not communicate(): asked again after its time-out, Python 3.11's sends nothing more of the input.
    out: list[bytes] = []
    threads = [
        threading.Thread(target=_give, args=(process.stdin, request), daemon=True),
        threading.Thread(target=_take, args=(process.stdout, out), daemon=True),
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    while True:
        threads[1].join(_LOOK)
        if not threads[1].is_alive():
            break
        if time.monotonic() > end:
            raise FileError(f"it took longer than {seconds:g} s to read; send less of it")
        if _resident(process.pid) > memory:
            raise FileError(f"it takes more than {memory >> 20} MiB to read; send less of it")
    try:
        code = process.wait(max(1.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        code = 1
    if code == 0 and out:
        return b"".join(out)
    if code in (-signal.SIGKILL, -signal.SIGXCPU):  # for want of memory, or by its limit of time
        raise FileError("it takes more memory or time to read than it may; send less of it")
    raise FileError("its reader ended on it; is the file damaged?")


def _give(pipe: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(OSError, ValueError), pipe:
        pipe.write(data)


def _take(pipe: IO[bytes], out: list[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while piece := pipe.read(1 << 20):
            out.append(piece)


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
