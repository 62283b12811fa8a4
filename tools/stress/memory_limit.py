"""A mixed load in a control group that ends a little above the weights: nothing may be killed, no answer may fail.

First the server loads its models in a roomy group, which tells what the programs take beside the weights; then it
starts anew in a group of that and ``--factor`` times the weights, with ``--no-memory-check``: the server would rather
not load a model with so little to spare. Chats short and long, with pictures, seeds, several
choices and schemas, batch jobs without a limit, completions of several prompts and embeddings are asked for minutes, by
more clients than fit, and some greedy answers (short and long, with a picture, batch jobs that are set aside and come
back) are compared with what they were in the roomy group. Needs Linux, root and a memory controller
(``tools/stress/limited.py``).

What counts: processes the kernel killed, answers with a status of 5xx, engines that died, greedy answers that differ,
clients that gave up (a chat's after 300 s, a batch job's, which has a tenth of the time, after 900), and how much of
the limit the processes' own memory took at most and in the median (files' pages don't count).

    python -m tools.stress.memory_limit --minutes 10
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.servers import Sidecar, data_folder, sidecar
from tools.stress import limited
from tools.stress.engine_chaos import picture

CLIENTS = 8
PATIENCE, PATIENCE_OF_JOBS = 300, 900  # seconds
_WORDS = (
    "harbour",
    "boat",
    "net",
    "gull",
    "rope",
    "tar",
    "winter",
    "sea",
    "stone",
    "bread",
    "letter",
    "river",
    "cloud",
)


def checks() -> list[tuple[str, dict[str, Any]]]:
    """Return greedy requests, each with its path, whose answers must be what they are with memory to spare."""
    long = " ".join(_WORDS * 60)
    chat: dict[str, Any] = {"model": "starter", "temperature": 0, "max_tokens": 40}

    def said(content: Any, **more: Any) -> tuple[str, dict[str, Any]]:
        return "/v1/chat/completions", {**chat, "messages": [{"role": "user", "content": content}], **more}

    return [
        ("/v1/completions", {"model": "starter", "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}),
        said("What is the sea?"),
        said(f"What is this list about? {long}"),
        said(picture()),
        said("Write a long story.", service_tier="flex", max_tokens=120),
        said(f"{long} What comes next?", service_tier="flex"),
        said("Name a colour.", response_format={"type": "json_object"}),
    ]


@contextmanager
def server(folder: Path, data: Path, group: limited.Group) -> Iterator[Sidecar]:
    """A server in a group, with the starter and an embedding model."""
    from sidecar.models.starter import embedding

    models = folder / "models"
    models.mkdir(parents=True)
    (models / "minilm").symlink_to(embedding.folder(data), target_is_directory=True)
    flags = ("--model-dir", str(models), "--no-warm-start", "--no-memory-check")
    with sidecar(folder / "server", *flags, data_dir=data, enter=group.enter) as running:
        yield running


def asked(rng: random.Random, words: int) -> tuple[str, dict[str, Any]]:
    """Return a drawn request's path and body; its text has up to ``words`` words."""
    text = " ".join(rng.choice(_WORDS) for _ in range(int(words * rng.random() ** 3) + 3))
    hello: Any = [{"role": "user", "content": text}]
    chat: dict[str, Any] = {"model": "starter", "messages": hello, "max_tokens": rng.randrange(1, 60)}
    kind = rng.choice(["chat", "chat", "seeded", "two", "job", "schema", "picture", "raw", "vectors"])
    if kind == "seeded":
        chat |= {"seed": rng.randrange(99), "temperature": 0.9}
    elif kind == "two":
        chat |= {"n": 2, "temperature": 0.7, "logprobs": True}
    elif kind == "job":
        chat |= {"service_tier": "flex", "max_tokens": 200}
    elif kind == "schema":
        chat |= {"response_format": {"type": "json_object"}}
    elif kind == "picture":
        chat |= {"messages": [{"role": "user", "content": [*picture(), *picture()][: rng.randrange(2, 5)]}]}
    elif kind == "raw":
        return "/v1/completions", {"model": "starter", "prompt": [text, text[::-1]], "max_tokens": 20}
    elif kind == "vectors":
        return "/v1/embeddings", {"model": "minilm", "input": [text[:900]] * rng.randrange(1, 30)}
    return "/v1/chat/completions", chat


Checked = list[tuple[str, dict[str, Any], Any]]
"""Paths, bodies, and the choices that answers must have."""


class Load:
    """Clients that ask until it is over. ``bad``: answers that should not be."""

    def __init__(self, running: Sidecar, *, seed: int, words: int, expected: Checked) -> None:
        self.statuses: Counter[int] = Counter()
        self.bad: list[str] = []
        self.compared = 0
        self.longest = {"chat": 0.0, "job": 0.0}  # seconds
        self._running = running
        self._seed = seed
        self._words = words
        self._expected = expected
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        rng = random.Random(self._seed * 1000 + number)
        with self._running.client() as http:
            while not self._over.is_set():
                expected = None
                if rng.random() < 0.2:
                    path, body, expected = rng.choice(self._expected)
                else:
                    path, body = asked(rng, self._words)
                kind, began = "job" if "service_tier" in body else "chat", time.monotonic()
                try:
                    answer = http.post(path, json=body, timeout=PATIENCE if kind == "chat" else PATIENCE_OF_JOBS)
                except httpx.HTTPError as exc:
                    self.bad.append(f"{path} ({kind}): {type(exc).__name__} {exc}")
                    continue
                self.longest[kind] = max(self.longest[kind], time.monotonic() - began)
                self.statuses[answer.status_code] += 1
                if answer.status_code >= 500:
                    self.bad.append(f"{answer.status_code} {answer.text[:200]}")
                elif expected is not None:
                    self.compared += 1
                    if answer.json().get("choices") != expected:
                        self.bad.append(f"a greedy answer is not what it was in the roomy group: {str(body)[:120]}")


def programs(data: Path, folder: Path) -> tuple[int, int, Checked]:
    """Return the weights' bytes, what the processes take beside them at rest, and answers to compare with."""
    from sidecar.models.starter import embedding

    files = [*(data / "models" / "starter").glob("*.safetensors"), *embedding.folder(data).glob("*.safetensors")]
    weights = sum(file.stat().st_size for file in files)
    roomy = limited.group(psutil.virtual_memory().total // 2)
    with roomy as group, server(folder, data, group) as running, running.client() as http:
        http.post("/v1/embeddings", json={"model": "minilm", "input": "x"}).raise_for_status()
        first, *others = checks()
        http.post(first[0], json=first[1], timeout=PATIENCE).raise_for_status()
        engine = http.get("/health").json()["engine"]["pid"]
        sizes = [psutil.Process(pid).memory_full_info().uss for pid in (running.process.pid, engine)]
        expected: Checked = []
        for path, body in (first, *others):
            answer = http.post(path, json=body, timeout=PATIENCE_OF_JOBS).raise_for_status()
            expected.append((path, body, answer.json()["choices"]))
    return weights, sum(sizes) - weights, expected


def run(
    data: Path, folder: Path, *, factor: float, minutes: float, seed: int, words: int, tell: Callable[[str], None]
) -> list[str]:
    """Run the load; return what should not be."""
    weights, beside, expected = programs(data, folder / "roomy")
    limit = beside + int(factor * weights)
    tell(f"weights {weights >> 20} MiB, programs beside them {beside >> 20}; the limit is {limit >> 20} MiB")
    shares: list[float] = []
    with limited.group(limit) as group, server(folder / "tight", data, group) as running:
        with Load(running, seed=seed, words=words, expected=expected) as load:
            end, told = time.monotonic() + minutes * 60, time.monotonic()
            while time.monotonic() < end and running.process.poll() is None:
                time.sleep(0.1)
                shares.append(group.own() / limit)
                if time.monotonic() - told > 30:
                    told = time.monotonic()
                    most = f"at most {max(shares):.0%} taken, {statistics.median(shares):.0%} in the median"
                    tell(f"{dict(load.statuses)}, {most}, {group.kills()} killed by the kernel, {len(load.bad)} bad")
        deaths = running.client().get("/health").json()["engine"]
        kills = group.kills()
    answers = f"{load.statuses.total()} answers, {dict(load.statuses)}, {load.compared} of them compared"
    tell(f"seed {seed}, {minutes:g} minutes: {answers}")
    tell(f"the longest took {load.longest['chat']:.0f} s of chats and {load.longest['job']:.0f} s of batch jobs")
    tell(f"of the limit at most {max(shares):.1%} were taken, {statistics.median(shares):.1%} in the median")
    tell(f"killed by the kernel: {kills}; engines that died: {deaths['deaths']}; bad answers: {len(load.bad)}")
    found = [f"the kernel killed {kills} processes"] * bool(kills)
    return found + [f"an engine died: {d['reason']}" for d in deaths["last_deaths"]] + load.bad


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--factor", type=float, default=1.3, help="times the weights (1.3)")
    parser.add_argument("--words", type=int, default=1500, help="in the longest prompt (1500)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    if not limited.possible():
        print("Control groups with a memory limit can't be made here: run it on Linux, as root.")
        return 2
    data = data_folder()
    options = {"factor": args.factor, "minutes": args.minutes, "seed": args.seed, "words": args.words}
    with tempfile.TemporaryDirectory(prefix="memory-limit-") as folder:
        found = run(data, Path(folder), **options, tell=partial(print, flush=True))
    for line, count in Counter(found).most_common(20):
        print(f"{count} × {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
