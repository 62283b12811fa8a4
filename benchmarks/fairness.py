"""What batch jobs get done beside one chat that never pauses, against what they get done alone. In one run.

python -m benchmarks.fairness --jobs 4 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from pathlib import Path

import httpx

from benchmarks import clients
from benchmarks.mixed import command_of


async def batch_rate(
    http: httpx.AsyncClient, model: str, args: argparse.Namespace, *, chatting: bool
) -> tuple[float, list[clients.Chat]]:
    """Batch tokens a second over ``args.seconds``, and the chats held meanwhile."""
    load = clients.Load()
    extra = {"service_tier": "flex"}
    jobs = [
        asyncio.create_task(clients.job(http, model, i, load, tokens=args.job_tokens, images=False, extra=extra))
        for i in range(args.jobs)
    ]
    chats: list[clients.Chat] = []

    async def chat_on() -> None:
        number = 0
        while True:
            chats.append(await clients.chat(http, model, f"{number}. {clients.QUESTION}", tokens=args.tokens))
            number += 1

    talking = asyncio.create_task(chat_on()) if chatting else None
    await asyncio.sleep(4)
    loop = asyncio.get_running_loop()
    start, before, chats_before = loop.time(), load.tokens, len(chats)
    await asyncio.sleep(args.seconds)
    rate = (load.tokens - before) / (loop.time() - start)
    for task in [*jobs, *([talking] if talking else [])]:
        task.cancel()
    await asyncio.gather(*jobs, *([talking] if talking else []), return_exceptions=True)
    if load.failures:
        raise RuntimeError(f"{load.failures} jobs failed: {load.errors[:1]}")
    await asyncio.sleep(1)
    return rate, chats[chats_before:]


async def run(url: str, model: str, args: argparse.Namespace) -> list[str]:
    """One line of the table: alone, beside a chat, and the chat itself."""
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as http:
        await clients.chat(http, model, "Warm up.", tokens=8)
        alone, _ = await batch_rate(http, model, args, chatting=False)
        idle = [await clients.chat(http, model, clients.QUESTION, tokens=args.tokens) for _ in range(3)]
        beside, chats = await batch_rate(http, model, args, chatting=True)
    between = statistics.median(c.between for c in idle)
    return [
        f"{alone:.1f}",
        f"{beside:.1f}",
        f"{beside / alone:.2f}",
        f"{statistics.median(c.between for c in chats) / between:.2f}",
        f"{max(max(c.gaps, default=0) for c in chats) / between:.1f}",
    ]


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter", help="a model folder, or starter")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--tokens", type=int, default=100, help="of a chat's answer")
    parser.add_argument("--job-tokens", type=int, default=32)
    args = parser.parse_args()
    path = clients.model_folder(args.model)
    port = clients.free_port()
    with clients.serving(command_of("ours", path, port), port, ready="/health") as url:
        row = asyncio.run(run(url, Path(path).name, args))
    head = ["batch tok/s alone", "beside a chat", "÷ alone", "chat: between ÷ idle", "longest gap ÷ idle"]
    sys.stdout.write(f"{os.cpu_count()} cores, {args.model}, {args.jobs} jobs\n{clients.table(head, [row])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
