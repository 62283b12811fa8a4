"""How long /health takes while a model loads and while eight streams run. Prints percentiles, milliseconds.

python -m benchmarks.health
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

import httpx

from benchmarks import clients


async def sample(url: str, until: asyncio.Event) -> list[float]:
    """Times of /health, one after another."""
    times = []
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        while not until.is_set():
            start = time.perf_counter()
            (await http.get("/health")).raise_for_status()
            times.append((time.perf_counter() - start) * 1000)
            await asyncio.sleep(0.005)
    return times


async def during(url: str, streams: int) -> list[float]:
    """Times of /health while ``streams`` chats run; the first loads the model."""
    over = asyncio.Event()
    probe = asyncio.create_task(sample(url, over))
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
    with clients.serving(command, port, ready="/health") as url:
        for name, streams in (("a model loads", 1), ("eight streams run", 8)):
            times = sorted(asyncio.run(during(url, streams)))
            p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
            rows.append([name, str(len(times)), f"{statistics.median(times):.1f}", f"{p99:.1f}", f"{times[-1]:.1f}"])
    sys.stdout.write(clients.table(["while", "samples", "median ms", "p99 ms", "max ms"], rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
