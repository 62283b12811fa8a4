"""How far the seconds left, as told before the first token, are from those it took.

python -m benchmarks.progress --rounds 6 --words 4000

Prompts of different lengths, alone and with another one ahead in the queue; the first round, in which costs are not
known, is left out. The goal: within 30 % once a tenth of the wait is over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks import clients
from tests.support.servers import data_folder, sidecar

Told = list[tuple[float, float | None]]
"""Seconds since the request, and the seconds left that were told then."""


async def wait_told(http: httpx.AsyncClient, seed: int, words: int) -> tuple[Told, float]:
    """Return what one request was told, and how long its first token took."""
    text = f"{seed}: " + " ".join(str((seed * 7919 + i * 31) % 99991) for i in range(words // 3))
    body: dict[str, Any] = {
        "model": "starter",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 2,
        "stream": True,
        "stream_options": {"include_progress": True},
    }
    told: Told = []
    start = time.perf_counter()
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            now = time.perf_counter() - start
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "progress" in chunk:
                told.append((now, chunk["progress"]["seconds_left"]))
            elif chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                return told, now
    raise RuntimeError("the stream ended without a token")


def errors(told: Told, took: float) -> dict[str, list[float]]:
    """Return by part of the wait how far what was told is from the truth, as parts of the whole wait's rest."""
    out: dict[str, list[float]] = {"0-10 %": [], "10-50 %": [], "50-90 %": []}
    for at, left in told:
        part, true = at / took, took - at
        name = "0-10 %" if part < 0.1 else "10-50 %" if part < 0.5 else "50-90 %" if part < 0.9 else ""
        if name and left is not None:
            out[name].append((left - true) / true)
    return out


def _path(told: Told, took: float) -> str:
    """Return some of what was told as "after seconds: told (true)"."""
    some = told[:: max(1, len(told) // 6)]
    return ", ".join(f"{at:.1f}: {'-' if left is None else format(left, '.1f')} ({took - at:.1f})" for at, left in some)


async def run(url: str, rounds: int, words: int) -> None:
    """Ask and print."""
    kinds: dict[str, dict[str, list[float]]] = {}
    untold = 0
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as http:
        await clients.chat(http, "starter", "Warm up.", tokens=4)
        await wait_told(http, 1, words)
        for number in range(2, rounds + 2):
            length = words * (1 + number % 3) // 2
            pairs = {
                "alone": [await wait_told(http, 10 * number, length)],
                "one ahead": (
                    await asyncio.gather(
                        wait_told(http, 10 * number + 1, length), wait_told(http, 10 * number + 2, length)
                    )
                )[1:],
            }
            for kind, found in pairs.items():
                for told, took in found:
                    print(f"{kind}, round {number}: {took:.1f} s, told {_path(told, took)}", flush=True)
                    untold += sum(left is None for _, left in told)
                    for name, values in errors(told, took).items():
                        kinds.setdefault(kind, {}).setdefault(name, []).extend(values)
    for kind, parts in kinds.items():
        for name, values in parts.items():
            if values:
                off = [abs(v) for v in values]
                good = sum(v <= 0.3 for v in off) / len(off)
                print(
                    f"{kind}, {name} of the wait: off by {statistics.median(off):.0%} (median of {len(off)}), "
                    f"{statistics.median(values):+.0%} with its sign, within 30 %: {good:.0%}"
                )
    print(f"told without seconds: {untold}")


def main() -> None:
    """Start a server and measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--words", type=int, default=4000, help="about as many tokens as the longest prompt has, halved"
    )
    data = data_folder()
    parser.add_argument("--data-dir", type=Path, default=data)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sidecar(Path(folder), data_dir=args.data_dir) as server:
        asyncio.run(run(server.url, args.rounds, args.words))


if __name__ == "__main__":
    main()
