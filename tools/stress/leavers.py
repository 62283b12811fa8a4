"""Clients that leave at any moment of anything, thousands of times: the engine's process must be the same at the end.

Each client opens a connection, sends a request for a chat, completions, embeddings, a picture, a load, a pull or a
deletion, and closes it after a moment drawn between none and the time that such a request takes: before the body is
all sent, while it waits, in the middle of a stream, just as the answer comes. Half of them reset the connection
(RST), half close it (FIN). At the end nothing may be left: no request counts as running, every kind is answered as it
was at the beginning, and neither the engine nor the server has died. The seed draws the same requests and moments
again; what the machine makes of them differs.

    python -m tools.stress.leavers --tries 10000
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support import models
from tests.support.fake_hub import FakeHub
from tests.support.servers import Sidecar, data_folder, sidecar
from tools.stress.engine_chaos import picture

HUB_ID = "acme/pulled"
CLIENTS = 8
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: the close is a reset
_SETTLE = 60.0  # seconds after which nothing of those who left may run


def requests() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return each kind's path and body by name."""
    chat, hello = "/v1/chat/completions", [{"role": "user", "content": "Count to ten."}]
    form: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": (chat, {"messages": hello, "max_tokens": 12}),
        "stream": (chat, {"messages": hello, "max_tokens": 12, "stream": True, "n": 2}),
        "batch": (chat, {"messages": hello, "max_tokens": 12, "service_tier": "flex"}),
        "picture": (chat, {"messages": [{"role": "user", "content": picture()}], "max_tokens": 5, "stream": True}),
        "schema": (chat, {"messages": hello, "max_tokens": 10, "response_format": form}),
        "completions": ("/v1/completions", {"prompt": ["Once", "upon"], "max_tokens": 12, "stream": True}),
        "embeddings": ("/v1/embeddings", {"model": "minilm", "input": ["a text of some words " * 20] * 10}),
        "tokens": ("/tokenize", {"messages": hello}),
        "load": ("/v1/models/other/load", {}),
        "unload": ("/v1/models/other/unload", {}),
        "pull": ("/v1/models/pull", {"model": HUB_ID, "stream": True}),
        "remove": (f"/v1/models/{HUB_ID}", {}),
    }
    for path, body in found.values():
        if not path.startswith("/v1/models"):
            body.setdefault("model", "starter")
    return found


@dataclass
class Moments:
    """How long each kind takes when nobody leaves, seconds; until it is measured, a guess."""

    seconds: dict[str, float] = field(default_factory=dict)

    def drawn(self, name: str, rng: random.Random) -> float:
        """Return after how many seconds a client leaves: soon more often than late, and sometimes after the end."""
        return float(self.seconds.get(name, 0.2) * 1.2 * rng.random() ** 2)


@dataclass
class Outcome:
    """What a run found. ``tries`` by kind; ``wrong``: what should not be."""

    tries: Counter[str]
    answered: int  # clients that had read something when they left
    wrong: list[str]
    seconds: float


def _method(path: str) -> str:
    return "DELETE" if path.endswith(HUB_ID) else "POST"


def leave(port: int, path: str, body: dict[str, Any], after: float, rng: random.Random) -> bool:
    """Ask and leave after so many seconds; return whether anything had come."""
    data = json.dumps(body).encode()
    head = f"{_method(path)} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    whole = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
    end = time.monotonic() + after
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        if rng.random() < 0.5:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if rng.random() < 0.05:
            raw.sendall(whole[: rng.randrange(len(whole))])
            return False
        raw.sendall(whole)
        came = False
        while (left := end - time.monotonic()) > 0:
            raw.settimeout(left)
            try:
                if not raw.recv(1 << 16):
                    return came
            except TimeoutError:
                return came
            except OSError:
                return came
            came = True
        return came


def run(running: Sidecar, *, tries: int, seed: int, tell: Callable[[str], None] = lambda line: None) -> Outcome:
    """Let ``tries`` clients come and leave, ``CLIENTS`` at a time."""
    asked, moments = requests(), Moments()
    port = int(running.url.rpartition(":")[2])
    done: Counter[str] = Counter()
    wrong: list[str] = []
    with running.client() as http:
        for name, (path, body) in [*asked.items()] * 2:  # the first brings what is imported and compiled once
            start = time.monotonic()
            answer = http.request(_method(path), path, json=body)
            moments.seconds[name] = time.monotonic() - start
            if answer.status_code != httpx.codes.OK:
                wrong.append(f"{name}: {answer.status_code} before anybody left: {answer.text[:200]}")
        http.post("/v1/models/other/load")
        expected = http.post("/v1/completions", json=_CHECK).json()["choices"]
        before = http.get("/health").json()
    tell(", ".join(f"{name} {1000 * taken:.0f} ms" for name, taken in moments.seconds.items()))
    answered, lock, numbers = [0], threading.Lock(), iter(range(tries))
    begun = time.monotonic()

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or wrong:
                return
            rng = random.Random(seed * 1_000_003 + number)
            name = rng.choice(list(asked))
            path, body = asked[name]
            try:
                came = leave(port, path, body, moments.drawn(name, rng), rng)
            except OSError as exc:
                wrong.append(f"try {number}, {name}: the server can't be reached: {exc}")
                return
            with lock:
                done[name] += 1
                answered[0] += came
                if done.total() % 1000 == 0:
                    tell(f"{done.total()} tries in {time.monotonic() - begun:.0f} s")

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begun
    wrong += look(running, before, expected, asked)
    return Outcome(done, answered[0], wrong, seconds)


_CHECK: dict[str, Any] = {"model": "starter", "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}


def look(running: Sidecar, before: dict[str, Any], expected: Any, asked: dict[str, Any]) -> list[str]:
    """Return what is not as it was before anybody left."""
    if running.process.poll() is not None:
        return [f"the server ended with status {running.process.returncode}"]
    wrong = []
    with running.client() as http:
        end = time.monotonic() + _SETTLE
        while (left := _still(http.get("/health").json())) and time.monotonic() < end:
            time.sleep(0.1)
        if left:
            wrong.append(f"{_SETTLE:g} s after the last left there still is: {left}")
        for name, (path, body) in asked.items():
            answer = http.request(_method(path), path, json=body)
            if answer.status_code != httpx.codes.OK:
                wrong.append(f"{name}: {answer.status_code} at the end: {answer.text[:200]}")
        if http.post("/v1/completions", json=_CHECK).json().get("choices") != expected:
            wrong.append("a greedy answer is not what it was")
        now = http.get("/health").json()
    if now["engine"] != before["engine"]:
        wrong.append(f"the engine was {before['engine']} and is {now['engine']}")
    faults = [line for line in running.logs().splitlines() if " ERROR " in line or " CRITICAL " in line]
    return wrong + faults[:5]


def _still(health: dict[str, Any]) -> dict[str, Any]:
    """Return what a server is at, by its /health; empty where it rests."""
    busy = {tier: counts for tier, counts in health["queue"].items() if any(counts.values())}
    return {k: v for k, v in {**busy, "pulls": health["pulls"], "loading": health["loading"]}.items() if v}


@contextmanager
def server(folder: Path, data: Path) -> Iterator[Sidecar]:
    """A server with the starter, an embedding model, one that comes and goes, and a hub that has another."""
    from sidecar.models.starter import embedding

    found = folder / "models"
    found.mkdir(parents=True)
    (found / "minilm").symlink_to(embedding.folder(data), target_is_directory=True)
    models.qwen3_vl(found / "other", layers=2, hidden=64)
    source = models.qwen3_vl(folder / "source", layers=2, hidden=64)
    files: dict[str, bytes | Path] = {p.name: p.read_bytes() for p in source.iterdir()}
    with FakeHub(files, hub_id=HUB_ID) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}
        flags = ("--model-dir", str(found), "--cache-dir", str(folder / "cache"), "--max-resident", "2")
        with sidecar(folder / "server", *flags, "--no-warm-start", env=env, data_dir=data) as running:
            yield running


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    data = data_folder()
    folder = Path(tempfile.mkdtemp(prefix="leavers-"))
    try:
        with server(folder, data) as running:
            found = run(running, tries=args.tries, seed=args.seed, tell=partial(print, flush=True))
            resident = [p.memory_info().rss >> 20 for p in psutil.Process(running.process.pid).children()]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"seed {args.seed}: {found.tries.total()} clients left in {found.seconds:.0f} s, {dict(found.tries)}")
    print(f"{found.answered} had begun to read; engine processes hold {resident} MiB; wrong: {len(found.wrong)}")
    for line in found.wrong:
        print(line[:1000])
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
