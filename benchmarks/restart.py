"""Time to the first token of a long conversation after a restart of everything, by where its prefix was kept.

    python -m benchmarks.restart --tokens 4000 --pictures 2 --model /path/to/a/qwen3-vl

``memory``: a further turn of a conversation that the server has in memory. ``disk``: one after the server was ended and
started anew over the same state directory. ``nowhere``: the same with ``--prefix-disk-mb 0``. The model is loaded by
another chat first each time, so that its load is in none of the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks import clients

QUIET = 1.5
"""Seconds without a change in the folder after which everything counts as written."""


def conversation(url: str, model: str, words: int, pictures: int) -> list[dict[str, Any]]:
    """Messages with about ``words`` tokens by the server's own count, and so many pictures."""
    sentence = "the harbour was full of boats and nets and gulls and rope and tar, "
    counted = httpx.post(f"{url}/tokenize", json={"model": model, "prompt": sentence * 20}, timeout=120).json()
    text = sentence * max(1, round(words / (counted["count"] / 20)))
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": clients.picture(i)}} for i in range(pictures)
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}]


async def first_token(url: str, model: str, messages: list[dict[str, Any]]) -> tuple[float, str, int, int]:
    """Return seconds to the first token, the answer, the prompt's tokens, and how many of them were kept."""
    body = {"model": model, "messages": messages, "max_tokens": 12, "temperature": 0.0, "stream": True}
    body |= {"stream_options": {"include_usage": True}, "logprobs": True}
    usage: dict[str, Any] = {}
    start, first, text = time.perf_counter(), 0.0, ""
    async with (
        httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            if not chunk.get("choices"):
                continue
            text += chunk["choices"][0]["delta"].get("content") or ""
            if clients.tokens_of(chunk["choices"][0]):  # the first chunk of all, without one, comes after a second
                first = first or time.perf_counter() - start
    return first, text, usage["prompt_tokens"], (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def written(folder: Path) -> int:
    """Wait until no file of a folder changes any more; return the bytes of all."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET:
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        if size != seen:
            seen, since = size, time.monotonic()
        time.sleep(0.2)
    return seen


def run(path: str, args: argparse.Namespace, state: Path) -> dict[str, list[tuple[float, int, int]]]:
    """Return by place (seconds, prompt's tokens, kept tokens) of each round, and the bytes on disk."""
    found: dict[str, list[tuple[float, int, int]]] = {"memory": [], "disk": [], "nowhere": []}
    model = Path(path).name

    def started(*more: str) -> Any:
        port = clients.free_port()
        command = [sys.executable, "-m", "sidecar.entry", "serve", "--port", str(port), "--strict-port"]
        command += ["--state-dir", str(state), "--model-dir", str(Path(path).parent), *more]
        return clients.serving(command, port, ready="/health")

    def ask(url: str, number: str, before: list[dict[str, Any]], place: str) -> None:
        question = {"role": "user", "content": f"Question {number}: what did you see?"}
        first, _, prompt, kept = asyncio.run(first_token(url, model, [*before, question]))
        found[place].append((first, prompt, kept))
        sys.stderr.write(f"{place} {first * 1000:.0f} ms, {kept} of {prompt} tokens kept\n")

    with started("--prefix-disk-mb", str(args.disk_mb)) as url:
        asyncio.run(first_token(url, model, [{"role": "user", "content": "Warm up."}]))
        before = conversation(url, model, args.tokens, args.pictures)
        _, text, _, _ = asyncio.run(first_token(url, model, before))
        before.append({"role": "assistant", "content": text})
        for i in range(args.rounds):
            ask(url, f"m{i}", before, "memory")
        size = written(state / "prefixes")
    sys.stderr.write(f"{size >> 20} MB on disk\n")
    for i in range(args.rounds):
        with started("--prefix-disk-mb", str(args.disk_mb)) as url:
            asyncio.run(first_token(url, model, [{"role": "user", "content": "Warm up."}]))
            ask(url, f"d{i}", before, "disk")
    with started("--prefix-disk-mb", "0") as url:
        asyncio.run(first_token(url, model, [{"role": "user", "content": "Warm up."}]))
        ask(url, "n", before, "nowhere")
    return found


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter", help="a model folder, or starter")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--pictures", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--disk-mb", type=int, default=8192)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-restart-") as folder:
        found = run(clients.model_folder(args.model), args, Path(folder) / "state")
    base = statistics.median(seconds for seconds, _, _ in found["memory"])
    rows = [
        [
            place,
            " ".join(f"{seconds * 1000:.0f}" for seconds, _, _ in rounds),
            f"{statistics.median(seconds for seconds, _, _ in rounds) / base:.2f}",
            " ".join(f"{kept}/{prompt}" for _, prompt, kept in rounds),
        ]
        for place, rounds in found.items()
    ]
    head = ["kept in", "TTFT ms", "÷ memory", "tokens kept"]
    sys.stdout.write(f"{os.cpu_count()} cores, {args.model}, {args.pictures} pictures\n{clients.table(head, rows)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
