"""Time to the first token over the turns of one chat: ours, and the peers with --servers. In one run.

python -m benchmarks.turns --turns 10

``bare`` is the model itself in a loop that keeps its cache: what the new tokens of a turn cost with no server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks import clients
from benchmarks.mixed import PEERS, command_of

FACT = "Here is a fact to remember: " + "the lighthouse on the cape was painted white and red again last spring, " * 6


async def talk(url: str, model: str, turns: int, tokens: int) -> tuple[list[float], list[int]]:
    """Seconds to the first token of each turn, and the tokens its prompt had."""
    messages: list[dict[str, str]] = []
    ttfts, lengths = [], []
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as http:
        await clients.chat(http, model, "Warm up.", tokens=4)
        for turn in range(turns):
            messages.append({"role": "user", "content": f"{turn}. {FACT} What else?"})
            body = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0.0, "stream": True}
            body["stream_options"] = {"include_usage": True}
            start, first, text = time.perf_counter(), 0.0, ""
            async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    chunk = json.loads(line[6:])
                    if chunk.get("usage"):
                        lengths.append(int(chunk["usage"]["prompt_tokens"]))
                    part = chunk["choices"][0]["delta"].get("content") if chunk.get("choices") else None
                    if part:
                        first = first or time.perf_counter() - start
                        text += part
            ttfts.append(first)
            messages.append({"role": "assistant", "content": text})
    return ttfts, lengths


def bare(path: str, turns: int, tokens: int) -> tuple[list[float], list[int]]:
    """The same as ``talk`` by the language model and one key-value cache, without a server."""
    import mlx.core as mx
    from mlx_vlm import utils
    from mlx_vlm.models.cache import make_prompt_cache

    from sidecar.engine.prefix_disk import common

    model, processor = utils.load(path)
    tokenizer = getattr(processor, "tokenizer", processor)
    language = model.language_model
    messages: list[dict[str, str]] = []
    ttfts, lengths = [], []
    cache = make_prompt_cache(language)
    held: list[int] = []

    def following(ids: list[int]) -> int:
        held.extend(ids)
        best: Any = mx.argmax(language(mx.array([ids]), cache=cache).logits[0, -1]).item()
        return int(best)

    following(tokenizer.encode("Warm up, please."))
    for turn in range(turns):
        messages.append({"role": "user", "content": f"{turn}. {FACT} What else?"})
        ids = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
        start = time.perf_counter()
        kept = common(held, ids)
        for entry in cache:
            entry.trim(len(held) - kept)
        del held[kept:]
        answer = [following(ids[kept:])]
        ttfts.append(time.perf_counter() - start)
        while len(answer) < tokens and answer[-1] != tokenizer.eos_token_id:
            answer.append(following(answer[-1:]))
        lengths.append(len(ids))
        messages.append({"role": "assistant", "content": tokenizer.decode(answer, skip_special_tokens=True)})
    return ttfts, lengths


def row(name: str, ttfts: list[float], lengths: list[int]) -> list[str]:
    """One line of the table, told on the way too."""
    line = [
        name,
        " ".join(f"{t * 1000:.0f}" for t in ttfts),
        f"{ttfts[-1] / ttfts[1]:.2f}",
        f"{ttfts[-1] / ttfts[0]:.2f}",
        f"{lengths[0]} … {lengths[-1]}" if lengths else "-",
    ]
    sys.stderr.write(" ".join(line) + "\n")
    return line


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter", help="a model folder, or starter")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=24, help="of each answer")
    parser.add_argument("--servers", nargs="+", default=["ours"], help=f"ours, {', '.join(PEERS)}")
    args = parser.parse_args()
    path = clients.model_folder(args.model)
    rows = []
    for name in args.servers:
        port = clients.free_port()
        try:
            with clients.serving(command_of(name, path, port), port) as url:
                model = Path(path).name if name == "ours" else path
                ttfts, lengths = asyncio.run(talk(url, model, args.turns, args.tokens))
        except (RuntimeError, subprocess.CalledProcessError, httpx.HTTPError, OSError) as exc:
            rows.append([name, f"could not be run: {str(exc)[:80]}", "-", "-", "-"])
            continue
        rows.append(row(name, ttfts, lengths))
    rows.append(row("bare", *bare(path, args.turns, args.tokens)))
    head = ["server", "TTFT ms by turn", f"turn {args.turns} ÷ 2", f"turn {args.turns} ÷ 1", "prompt tokens"]
    sys.stdout.write(f"{os.cpu_count()} cores, {args.model}\n{clients.table(head, rows)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
