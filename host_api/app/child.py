"""Runs a function in a process of its own that can be ended, and that has limits: memory, time, files, no network.

What reads files of strangers (a PDF, an Excel sheet) or computes what a model asks for may loop, take all memory or
crash in native code. In a child it takes itself down and nothing else.

Theory of operation. The child is a fresh interpreter with a bare environment and an empty folder as its working
directory and home. It gets one request over its standard input, a function's dotted name and its arguments, and
answers over its standard output with one message for a value, or one for each value of a generator. Messages are plain
data (what JSON has, and bytes); nothing is unpickled, so what a poisoned child writes is at worst wrong data.

Limits hold twice. In the child: ``RLIMIT_AS``, ``RLIMIT_CPU``, ``RLIMIT_NOFILE``, ``RLIMIT_FSIZE``, an audit hook that
refuses sockets, programs and files written outside its folder, and on Linux, where the kernel lets it, a network
namespace without any network. Out here: a look at its resident memory twenty times a second and a time-out for each
value, because macOS knows no RLIMIT_AS and a hung child answers no signal but SIGKILL.

A worked timeline, ``Limits(seconds=20)``, a PDF of three pages whose second never ends: 0.1 s the child is up, 0.3 s
page 1 comes, 20.3 s the child is killed, ``ChildFailure("time")`` is raised out of ``stream``; the caller fails that
document by name, and the service answered everything else meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MIB: Final = 1024 * 1024
LARGEST_MESSAGE: Final = 512 * MIB
LOOK_EVERY: Final = 0.05  # seconds between looks at a child's memory
_START: Final = "import json,sys; sys.path[:]=json.loads(sys.argv[1]); from host_api.app.child_main import main; main()"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """``memory_mb``: resident MiB. ``seconds``: for each value, start included. ``cpu_seconds``: in all."""

    memory_mb: int = 1024
    seconds: float = 60.0
    cpu_seconds: int = 1800
    files: int = 128
    file_mb: int = 256


class ChildFailure(Exception):
    """The child gave no answer. ``reason``: time, memory, crash, or error for an exception of the function itself."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChildRefusal(ChildFailure):
    """The function raised an exception that has ``status_code``, ``code`` and ``message``, as ApiError has."""

    def __init__(self, status_code: int, message: str, code: str) -> None:
        super().__init__("error", message)
        self.status_code = status_code
        self.message = message
        self.code = code


# --- messages ------------------------------------------------------------------------------------------
def encode(value: Any) -> bytes:
    """Return plain data as one message: lengths, JSON, then the bytes it refers to. Raises TypeError for other data."""
    blobs: list[bytes] = []

    def plain(item: Any) -> Any:
        if isinstance(item, bytes | bytearray | memoryview):
            blobs.append(bytes(item))
            return {"$bytes": len(blobs) - 1}
        if isinstance(item, dict):
            return {str(key): plain(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [plain(inner) for inner in item]
        if item is None or isinstance(item, str | int | float | bool):
            return item
        raise TypeError(f"{type(item).__name__} is not plain data")

    head = json.dumps({"value": plain(value), "blobs": None}).encode()
    sizes = struct.pack(f">{len(blobs)}Q", *map(len, blobs))
    body = b"".join((struct.pack(">QQ", len(head), len(blobs)), sizes, head, *blobs))
    return struct.pack(">Q", len(body)) + body


def decode(body: bytes) -> Any:
    """Return the data of a message without its first length. Raises ValueError."""
    try:
        head_size, count = struct.unpack_from(">QQ", body)
        sizes = struct.unpack_from(f">{count}Q", body, 16)
        at = 16 + 8 * count
        value = json.loads(body[at : at + head_size])["value"]
        at += head_size
        blobs = []
        for size in sizes:
            blobs.append(body[at : at + size])
            at += size
        if at != len(body):
            raise ValueError("the lengths are wrong")
        return _with_bytes(value, blobs)
    except (struct.error, KeyError, IndexError, TypeError, RecursionError) as exc:
        raise ValueError(f"not a message: {exc}") from exc


def _with_bytes(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, dict):
        if list(value) == ["$bytes"]:
            return blobs[value["$bytes"]]
        return {key: _with_bytes(inner, blobs) for key, inner in value.items()}
    return [_with_bytes(inner, blobs) for inner in value] if isinstance(value, list) else value


# --- running -------------------------------------------------------------------------------------------
def run(function: str, *args: Any, limits: Limits | None = None) -> Any:
    """Call ``module:name`` with plain data in a child and return its plain answer. Blocking; call from a thread.

    Raises ChildRefusal or ChildFailure.
    """
    source = stream(function, *args, limits=limits)
    try:
        return next(source, None)
    finally:
        source.close()  # type: ignore[attr-defined]


def stream(function: str, *args: Any, limits: Limits | None = None) -> Iterator[Any]:
    """Yield what the generator ``module:name`` yields, as it comes (or the one value of a function).

    Closing the iterator ends the child. Blocking; call from a thread. Raises ChildRefusal or ChildFailure.
    """
    limits = limits or Limits()
    folder = tempfile.mkdtemp(prefix="mlx-host-child-")
    try:
        with tempfile.TemporaryFile() as words:
            process = _spawn(folder, words, limits)
            try:
                reader = _Reader(process, limits)
                reader.send(encode({"function": function, "args": list(args), "limits": limits.__dict__}))
                yield from reader.values()
            except _Ended as ended:
                raise _explained(process, words, limits, ended.why) from None
            finally:
                _end(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _spawn(folder: str, words: Any, limits: Limits) -> subprocess.Popen[bytes]:
    kept = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    # Threads of number libraries reserve address space by the gigabyte and gain nothing here.
    env |= {"HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
    paths = [str(Path(p).resolve()) if p else str(Path.cwd()) for p in sys.path]
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            cwd=folder,
            env=env,
            start_new_session=True,
        )
    except OSError as exc:
        raise ChildFailure("crash", f"no process can be started ({exc.strerror}); try again later") from exc


class _Ended(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _Reader:
    """Reads messages of a child, never longer than its limits allow."""

    def __init__(self, process: subprocess.Popen[bytes], limits: Limits) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._limits = limits
        self._in, self._out = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._deadline = time.monotonic() + limits.seconds
        self._watched = _Memory(process.pid)

    def send(self, data: bytes) -> None:
        """Write the request; the pipe stays open, since its end tells the child that its parent is gone."""
        view = memoryview(data)
        while view:
            self._wait([], [self._in])
            try:
                view = view[os.write(self._in, view[: 1 << 16]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise _Ended("crash") from None

    def values(self) -> Iterator[Any]:
        """Yield the values until the child says that it is done."""
        while True:
            self._deadline = time.monotonic() + self._limits.seconds
            size = struct.unpack(">Q", self._read(8))[0]
            if size > LARGEST_MESSAGE:
                raise _Ended("memory")
            try:
                message = decode(self._read(size))
                kind = message["kind"]
            except (ValueError, KeyError, TypeError):
                raise _Ended("crash") from None
            if kind == "done":
                return
            if kind == "refused":
                raise ChildRefusal(int(message["status"]), str(message["message"]), str(message["code"]))
            if kind == "failed":
                raise ChildFailure(str(message["reason"]), str(message["message"]))
            yield message["value"]

    def _read(self, size: int) -> bytes:
        pieces = bytearray()
        while len(pieces) < size:
            self._wait([self._out], [])
            try:
                piece = os.read(self._out, min(size - len(pieces), 1 << 20))
            except BlockingIOError:
                continue
            if not piece:
                raise _Ended("crash")
            pieces += piece
        return bytes(pieces)

    def _wait(self, reads: list[int], writes: list[int]) -> None:
        while True:
            if self._watched.resident() > self._limits.memory_mb * MIB:
                raise _Ended("memory")
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise _Ended("time")
            if any(select.select(reads, writes, [], min(LOOK_EVERY, left))):
                return


class _Memory:
    """The resident memory of a process, as cheaply as it can be had."""

    def __init__(self, pid: int) -> None:
        self._statm = Path(f"/proc/{pid}/statm")
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._process: Any = None
        if not self._statm.exists():
            import psutil

            with contextlib.suppress(psutil.Error):
                self._process = psutil.Process(pid)

    def resident(self) -> int:
        """Return bytes; 0 for a process that is gone."""
        try:
            if self._process is not None:
                return int(self._process.memory_info().rss)
            return int(self._statm.read_text().split()[1]) * self._page
        except Exception:
            return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it may have started, and wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def _explained(process: subprocess.Popen[bytes], words: Any, limits: Limits, why: str) -> ChildFailure:
    if why == "time":
        return ChildFailure("time", f"it took longer than {limits.seconds:g} s")
    if why == "crash":
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        words.seek(0, os.SEEK_END)
        words.seek(max(0, words.tell() - 2000))
        said = words.read().decode("utf-8", "replace").strip().splitlines()
        if process.returncode == -signal.SIGXCPU:
            return ChildFailure("time", f"it computed longer than {limits.cpu_seconds} s")
        if process.returncode != -signal.SIGKILL and not any("MemoryError" in line for line in said):
            return ChildFailure("crash", f"the process ended with status {process.returncode}: {' '.join(said[-1:])}")
    return ChildFailure("memory", f"it took more than {limits.memory_mb} MB of memory")
