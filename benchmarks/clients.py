"""Clients the benchmarks share: one streamed chat, timed token by token; jobs that keep a server busy."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

QUESTION = "Describe the sea in winter, please."
JOB = "Write tags for this text: " + "the harbour was full of boats and nets and gulls and rope and tar, " * 8


@dataclass
class Chat:
    """Times of one streamed chat, seconds: to its first token, and between tokens."""

    ttft: float
    gaps: list[float]

    @property
    def between(self) -> float:
        """Median time between tokens."""
        return statistics.median(self.gaps) if self.gaps else float("nan")

    @property
    def mean(self) -> float:
        """Mean time between tokens: what the longest gaps cost is in it."""
        return statistics.fmean(self.gaps) if self.gaps else float("nan")


@dataclass
class Load:
    """What the batch clients got done."""

    tokens: int = 0
    failures: int = 0
    jobs: int = 0
    errors: list[str] = field(default_factory=list)


def picture(seed: int, side: int = 448) -> str:
    """A data URL of a picture that is different for every seed."""
    from PIL import Image

    data = io.BytesIO()
    Image.effect_noise((side, side), 20 + seed % 80).convert("RGB").rotate(seed).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def content(text: str, image: str | None) -> Any:
    """Message content with an image or without."""
    if image is None:
        return text
    return [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": text}]


async def chat(
    client: httpx.AsyncClient, model: str, text: str, *, tokens: int, image: str | None = None, extra: Any = None
) -> Chat:
    """Stream one chat and time it, token by token (``streamed``). Raises httpx.HTTPError."""
    start = time.perf_counter()
    stamps: list[float] = []
    async for count in streamed(client, model, text, tokens=tokens, image=image, extra=extra):
        stamps += [time.perf_counter()] * count
    if not stamps:
        raise httpx.HTTPError("no token came")
    return Chat(stamps[0] - start, [b - a for a, b in itertools.pairwise(stamps)])


async def streamed(
    client: httpx.AsyncClient, model: str, text: str, *, tokens: int, image: str | None = None, extra: Any = None
) -> AsyncIterator[int]:
    """Stream an answer; give how many tokens each chunk brings, by ``logprobs`` where the server says it.

    Elsewhere a chunk with text counts as one. Raises httpx.HTTPError.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content(text, image)}],
        "max_tokens": tokens,
        "temperature": 0.0,
        "stream": True,
        "logprobs": True,
        **(extra or {}),
    }
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            await answer.aread()
            raise httpx.HTTPStatusError(answer.text[:200], request=answer.request, response=answer)
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise httpx.HTTPError(str(chunk["error"])[:200])
            if chunk.get("choices"):
                yield tokens_of(chunk["choices"][0])


def tokens_of(choice: dict[str, Any]) -> int:
    """Return how many tokens a chunk of a stream brings."""
    told = (choice.get("logprobs") or {}).get("content")
    if told:
        return len(told)
    delta = choice.get("delta") or {}
    return int(bool(delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")))


async def job(
    client: httpx.AsyncClient, model: str, number: int, load: Load, *, tokens: int, images: bool, extra: Any
) -> None:
    """One batch job after another until cancelled; its tokens count as they come."""
    turn = 0
    while True:
        image = picture(number * 37 + turn) if images else None
        text = f"Job {number}.{turn}. {JOB}"
        turn += 1
        try:
            async for count in streamed(client, model, text, tokens=tokens, image=image, extra=extra):
                load.tokens += count
            load.jobs += 1
        except (httpx.HTTPError, KeyError) as exc:
            load.failures += 1
            load.errors.append(str(exc)[:120])
            await asyncio.sleep(0.2)


def model_folder(model: str) -> str:
    """The folder of ``model``: itself, or where the starter model is installed."""
    if model != "starter":
        return model
    from sidecar.config import load

    return str(load().data_dir / "models" / "starter")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def state_of(port: int) -> Path:
    """The state directory of our server on a port; ``serving`` clears it away."""
    return Path(f"/tmp/bench-state-{port}")


@contextlib.contextmanager
def serving(command: Sequence[str], port: int, *, ready: str = "/v1/models", env: Any = None) -> Iterator[str]:
    """A server process of its own group; its URL once it answers. Its output goes to a file kept on failure."""
    log = Path(f"/tmp/bench-{port}.log")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            list(command), stdout=sink, stderr=sink, env={**os.environ, **(env or {})}, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url + ready, timeout=5).status_code < 500:
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-800:]}")
            time.sleep(0.1)
        yield url
        log.unlink(missing_ok=True)
        shutil.rmtree(state_of(port), ignore_errors=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(str(r[i])) for r in [head, *rows]) for i in range(len(head))]
    lines = ["| " + " | ".join(str(c).ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in [head, *rows]]
    lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    return "\n".join(lines)
