"""The host service's /health in ms while every operation meets a trouble, and how long SIGTERM takes whatever runs.

    python -m benchmarks.host_health

Troubles: none, a database that another program locks, a sidecar that hangs (SIGSTOP), a disk that hangs (pipes that
nobody writes to, in the place of files). Goals: 100 ms for the slowest /health, 5 s for SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import clients
from tests.host_api.app.test_chat import STORY, body, chunks, user
from tests.support.documents import Colour, pdf
from tests.support.every_endpoint import Burst, requests
from tests.support.host_servers import HostProcess, host
from tests.support.servers import data_folder

SECONDS = 8.0


# In a process of its own: forty clients that begin at once keep their own process from looking at the clock.
_SAMPLER = """
import http.client, json, sys, time
port, seconds = int(sys.argv[1]), float(sys.argv[2])
times, end = [], time.monotonic() + seconds
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
while time.monotonic() < end:
    start = time.perf_counter()
    connection.request("GET", "/health")
    assert connection.getresponse().read()
    times.append((time.perf_counter() - start) * 1000)
    time.sleep(0.005)
print(json.dumps(sorted(times)))
"""


@contextlib.contextmanager
def sampled(running: HostProcess, seconds: float, into: list[float]) -> Iterator[None]:
    """Time /health in ms, one after another, from the beginning of the block on."""
    port = running.url.rpartition(":")[2]
    command = [sys.executable, "-c", _SAMPLER, port, str(seconds)]
    sampler = subprocess.Popen(command, stdout=subprocess.PIPE)
    time.sleep(0.5)
    yield
    into += json.loads(sampler.communicate(timeout=seconds + 120)[0])


@contextlib.contextmanager
def locked(running: HostProcess) -> Iterator[None]:
    """Lock the database."""
    with contextlib.closing(sqlite3.connect(running.folder / "data" / "host.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextlib.contextmanager
def hung(running: HostProcess) -> Iterator[None]:
    """Stop the sidecar's process."""
    pid = running.wait_sidecar()["pid"]
    os.kill(pid, signal.SIGSTOP)
    yield
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def slow_disk(running: HostProcess) -> Iterator[None]:
    """Let the reading of keys, MCP servers and a chat's file wait for ever."""
    data = running.folder / "data"
    paths = [data / "keys.json", data / "mcp.json", data / "pictures" / ("f" * 64)]
    paths[2].parent.mkdir(exist_ok=True)
    over = threading.Event()
    for path in paths:
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    Burst(running, {"GET /chat/files/x": (f"/chat/files/{'f' * 64}", {})})
    yield

    def let_go() -> None:
        while not over.wait(0.05):
            for path in paths:
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    thread = threading.Thread(target=let_go)
    thread.start()
    time.sleep(3)
    over.set()
    thread.join()
    for path in paths:
        path.unlink(missing_ok=True)


TROUBLES: dict[str, Callable[[HostProcess], contextlib.AbstractContextManager[None]]] = {
    "nothing": lambda _: contextlib.nullcontext(),
    "a locked database": locked,
    "a hung sidecar": hung,
    "a hanging disk": slow_disk,
}


def health(folder: Path, data: Path) -> list[list[str]]:
    """Return a row for each trouble."""
    rows = []
    # With byte code, as it is installed: compiling a large module keeps every thread waiting for half a second.
    cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    with host(folder / "first", data_dir=data, env=cached) as running, running.client() as http:
        running.wait_seeded()
        Burst(running, {k: how for k, how in requests(http).items() if k != "GET /events"}).join(120)
    with host(folder / "timed", "--max-answer", "200", data_dir=data, env=cached) as running:
        running.wait_seeded()
        for name, trouble in TROUBLES.items():
            running.wait_sidecar()
            with running.client() as http:
                asked = {k: how for k, how in requests(http).items() if k != "GET /health"}
            times: list[float] = []
            with trouble(running), sampled(running, SECONDS, times):
                Burst(running, asked)
            p99 = times[int(len(times) * 0.99)]
            rows.append([name, str(len(times)), f"{statistics.median(times):.1f}", f"{p99:.1f}", f"{times[-1]:.1f}"])
    return rows


def ended(folder: Path, data: Path, trouble: str) -> float:
    """Return the seconds from SIGTERM to the end of the process."""
    with host(folder, data_dir=data) as running, contextlib.ExitStack() as stack:
        running.wait_seeded()
        http = stack.enter_context(running.client())
        if trouble != "nothing":
            answer = stack.enter_context(http.stream("POST", "/chat/agent-stream", json=body(user(STORY))))
            source = chunks(answer)
            while next(source)["type"] != "text-delta":
                pass
        if trouble == "an answer, a document and a locked database":
            pages: list[tuple[str, list[Colour]]] = [(f"Page {i}\n" + "words " * 40, []) for i in range(300)]
            http.post("/tasks/index", files={"file": ("long.pdf", pdf(pages))})
            time.sleep(1)
            stack.enter_context(locked(running))
        if trouble == "an answer of a hung sidecar":
            pid = running.sidecar()["pid"]
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        start = time.monotonic()
        running.stop()
        return time.monotonic() - start


def main() -> int:
    """Run and print both tables."""
    data = data_folder()
    with tempfile.TemporaryDirectory() as folder:
        rows = health(Path(folder) / "health", data)
        print(clients.table(["every operation meets", "samples", "median ms", "p99 ms", "max ms"], rows))
        names = ("nothing", "an answer", "an answer, a document and a locked database", "an answer of a hung sidecar")
        ends = [[name, f"{ended(Path(folder) / str(i), data, name):.2f}"] for i, name in enumerate(names)]
        print(clients.table(["SIGTERM while there is", "seconds"], ends))
    return 0


if __name__ == "__main__":
    sys.exit(main())
