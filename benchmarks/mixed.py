"""A chat beside batch jobs: ours and the peers' servers in turn, the same clients, the same model.

    python -m benchmarks.mixed --model starter --jobs 0 4 8
    python -m benchmarks.mixed --model /path/to/a/qwen3-vl --images --jobs 0 4

Figures are ratios to the same server's idle figures in the same run. Peers are taken from PyPI into
environments of their own under the cache folder.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks import clients

CACHE = Path.home() / ".cache" / "mlx-sidecar-dev" / "peers"
PEERS = {"mlx_vlm.server": "mlx-vlm==0.7.10", "vllm-mlx": "vllm-mlx==0.6.0", "mlx_lm.server": "mlx-lm==0.31.3"}


@dataclass
class Result:
    """One server under one number of jobs."""

    chats: list[clients.Chat]
    load: clients.Load
    seconds: float
    failed: int


async def measure(url: str, model: str, args: argparse.Namespace, jobs: int, extra: Any) -> Result:
    """``args.chats`` chats one after another, beside ``jobs`` batch clients."""
    load = clients.Load()
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as http:
        await clients.chat(http, model, "Warm up.", tokens=4)
        running = [
            asyncio.create_task(
                clients.job(http, model, i, load, tokens=args.job_tokens, images=args.images, extra=extra)
            )
            for i in range(jobs)
        ]
        loop = asyncio.get_running_loop()
        if jobs:
            await asyncio.sleep(3)
        for i in range(args.warm):  # the first chats pay for kernels and memory not used before, on every server
            with contextlib.suppress(httpx.HTTPError):
                await clients.chat(http, model, f"Warm up {jobs}.{i}. {clients.QUESTION}", tokens=args.tokens)
        start, before = loop.time(), load.tokens
        chats, failed = [], 0
        for i in range(args.chats):
            try:
                chats.append(await clients.chat(http, model, f"{jobs}.{i}. {clients.QUESTION}", tokens=args.tokens))
            except httpx.HTTPError:
                failed += 1
            await asyncio.sleep(0.2 + 0.13 * (i % 4))
        seconds = loop.time() - start
        load.tokens -= before
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return Result(chats, load, seconds, failed)


def peer(name: str) -> Path:
    """The python of a peer's own environment, made when it isn't there."""
    folder = CACHE / name
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        packages = [PEERS[name], "mlx[cpu]==0.32.4"] if sys.platform == "linux" else [PEERS[name]]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return python


def command_of(name: str, path: str, port: int) -> list[str]:
    """How a server is started with the model folder ``path``."""
    if name == "ours":
        run = [sys.executable, "-m", "sidecar.entry", "serve", "--port", str(port), "--strict-port"]
        run += ["--state-dir", str(clients.state_of(port)), "--model-dir", str(Path(path).parent)]
        return run + (["--unit-log", os.environ["BENCH_UNIT_LOG"]] if "BENCH_UNIT_LOG" in os.environ else [])
    if name == "mlx_vlm.server":
        return [str(peer(name)), "-m", "mlx_vlm.server", "--port", str(port), "--model", path]
    if name == "mlx_lm.server":
        return [str(peer(name)), "-m", "mlx_lm", "server", "--port", str(port), "--model", path]
    return [str(peer(name).with_name("vllm-mlx")), "serve", path, "--port", str(port), "--continuous-batching"]


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter", help="a model folder, or starter")
    parser.add_argument("--jobs", type=int, nargs="+", default=[0, 4, 8])
    parser.add_argument("--images", action="store_true", help="the jobs send a picture each")
    parser.add_argument("--chats", type=int, default=8)
    parser.add_argument("--warm", type=int, default=3, help="chats first that aren't counted")
    parser.add_argument("--tokens", type=int, default=24, help="of a chat")
    parser.add_argument("--job-tokens", type=int, default=32)
    parser.add_argument("--servers", nargs="+", default=["ours", *PEERS])
    args = parser.parse_args()
    path = clients.model_folder(args.model)
    rows = []
    for name in args.servers:
        port = clients.free_port()
        try:
            command = command_of(name, path, port)
            model = Path(path).name if name == "ours" else path
            extra = {"service_tier": "flex"} if name == "ours" else None
            with clients.serving(command, port, ready="/health" if name == "ours" else "/v1/models") as url:
                idle: Result | None = None
                for jobs in args.jobs:
                    result = asyncio.run(measure(url, model, args, jobs, extra))
                    idle = idle or result
                    rows.append(row(name, jobs, result, idle))
                    sys.stderr.write(" ".join(rows[-1]) + "\n")
        except (RuntimeError, subprocess.CalledProcessError, httpx.HTTPError, OSError) as exc:
            rows.append([name, "-", f"could not be run: {str(exc)[:60]}", *["-"] * 7])
    head = ["server", "jobs", "TTFT ms", "÷ idle", "max ÷ idle", "between ms", "mean ÷ idle", "longest gap ÷ idle"]
    head += ["batch tok/s", "failed"]
    sys.stdout.write(f"{os.cpu_count()} cores, {args.model}, {'image' if args.images else 'text'} jobs\n")
    sys.stdout.write(clients.table(head, rows) + "\n")
    return 0


def row(name: str, jobs: int, result: Result, idle: Result) -> list[str]:
    """One line of the table."""
    if not result.chats or not idle.chats:
        return [name, str(jobs), "all chats failed", *["-"] * 6, f"{result.failed}+{result.load.failures}"]
    ttft = statistics.median(c.ttft for c in result.chats)
    base = statistics.median(c.ttft for c in idle.chats)
    token = statistics.fmean(c.mean for c in idle.chats)  # the median is nothing where most tokens come two at a time
    longest = max(max(c.gaps, default=0) for c in result.chats)
    return [
        name,
        str(jobs),
        f"{ttft * 1000:.0f}",
        f"{ttft / base:.2f}",
        f"{max(c.ttft for c in result.chats) / base:.2f}",
        f"{statistics.median(c.between for c in result.chats) * 1000:.0f}",
        f"{statistics.fmean(c.mean for c in result.chats) / token:.2f}",
        f"{longest / token:.1f}",
        f"{result.load.tokens / result.seconds:.1f}",
        f"{result.failed}+{result.load.failures}",
    ]


if __name__ == "__main__":
    sys.exit(main())
