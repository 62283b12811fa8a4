"""How long /health takes while a model loads and while eight streams run. Prints percentiles, milliseconds.

A bare server of asyncio, which answers every request with the same few bytes and does nothing else, is asked beside it,
in turns: what takes it as long is the machine, whose processors the engine's threads share.

python -m benchmarks.health
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks import clients

BARE = """
import asyncio, sys

ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}"

async def serve(reader, writer):
    while (await reader.readuntil(b"\\r\\n\\r\\n")):
        writer.write(ANSWER)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"""


@contextmanager
def bare() -> Iterator[str]:
    """Run the bare server and yield its address."""
    port = clients.free_port()
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port)], stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def waited(pid: int) -> float:
    """Return the seconds that a process's first thread was ready and waited for a processor (Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


async def sample(url: str, control: str, until: asyncio.Event) -> tuple[list[float], list[float]]:
    """Return the times of /health and of the bare server, milliseconds, asked in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        while not until.is_set():
            for address, found in zip((f"{url}/health", control), times, strict=True):
                start = time.perf_counter()
                (await http.get(address)).raise_for_status()
                found.append((time.perf_counter() - start) * 1000)
                await asyncio.sleep(0.005)
    return times


async def during(url: str, control: str, streams: int) -> tuple[list[float], list[float]]:
    """Return the times of both while ``streams`` chats run; the first loads the model."""
    over = asyncio.Event()
    probe = asyncio.create_task(sample(url, control, over))
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as http:
        chats = [clients.chat(http, "starter", f"Story {i}, please.", tokens=60) for i in range(streams)]
        await asyncio.gather(*chats)
    over.set()
    return await probe


def main() -> int:
    """Run and print the table."""
    port = clients.free_port()
    command = [sys.executable, "-m", "sidecar.entry", "serve", "--port", str(port), "--strict-port"]
    command += ["--state-dir", str(clients.state_of(port))]
    rows = []
    with clients.serving(command, port, ready="/health") as url, bare() as control:
        pid = int(httpx.get(f"{url}/health").json()["pid"])
        for name, streams in (("a model loads", 1), ("eight streams run", 8)):
            before = waited(pid)
            for who, found in zip(("/health", "bare"), asyncio.run(during(url, control, streams)), strict=True):
                times = sorted(found)
                p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
                numbers = [f"{value:.1f}" for value in (statistics.median(times), p99, times[-1])]
                rows.append([name, who, str(len(times)), *numbers, f"{waited(pid) - before:.2f}"])
    head = ["while", "who", "samples", "median ms", "p99 ms", "max ms", "listener waited for a processor, s"]
    sys.stdout.write(clients.table(head, rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
