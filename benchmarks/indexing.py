"""A chat over ``/chat/agent-stream`` beside the indexing of a PDF with pictures: the real service, sidecar and models.

    python -m benchmarks.indexing --chats 6 --pages 12

Figures are ratios to the same service's idle figures in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.support.documents import pdf, shape
from tests.support.host_servers import HostProcess, host
from tests.support.servers import data_folder

QUESTION = "Describe the sea in winter, please."
WORDS = "The harbour was full of boats and nets and gulls and rope and tar. "


def chat(http: httpx.Client, number: int) -> tuple[float, list[float]]:
    """Seconds to a chat's first words, and between all that followed."""
    part = {"type": "text", "text": f"{number}. {QUESTION}"}
    message = {"id": uuid.uuid4().hex, "role": "user", "parts": [part]}
    body = {"trigger": "submit-message", "id": uuid.uuid4().hex, "messages": [message], "tools": False}
    start = time.perf_counter()
    times = []
    with http.stream("POST", "/chat/agent-stream", json=body) as answer:
        for line in answer.iter_lines():
            if '"type":"text-delta"' in line.replace('": "', '":"'):
                times.append(time.perf_counter())
    return times[0] - start, [b - a for a, b in itertools.pairwise(times)]


def measure(
    running: HostProcess, chats: int, going_on: Callable[[], bool]
) -> tuple[list[float], list[float], list[float]]:
    """First-token times, longest gaps and median gaps of ``chats`` chats, as long as ``going_on``."""
    first, longest, between = [], [], []
    with running.client() as http:
        for number in range(chats):
            ttft, gaps = chat(http, number)
            if not going_on():
                break
            first.append(ttft)
            longest.append(max(gaps))
            between.append(statistics.median(gaps))
            time.sleep(0.2)
    return first, longest, between


@contextlib.contextmanager
def indexing(running: HostProcess, pages: int) -> Iterator[Callable[[], bool]]:
    """A PDF being indexed; gives what says whether it still is. Prints what came of it."""
    colours, kinds = ("red", "blue", "green"), ("circle", "square", "triangle")
    made = [
        (f"Page {i} of {uuid.uuid4().hex}\n{WORDS}", [shape(kinds[i % 3], colours[i // 3 % 3])]) for i in range(pages)
    ]
    start = time.perf_counter()
    with running.client() as http:
        task = http.post("/tasks/index", files={"file": ("bench.pdf", pdf(made))}).json()
        ended = threading.Event()
        state: dict[str, Any] = {}

        def follow() -> None:
            with running.client() as inner, inner.stream("GET", f"/tasks/{task['id']}/events") as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        state.update(json.loads(line[6:]))
            state["seconds"] = time.perf_counter() - start
            ended.set()

        threading.Thread(target=follow).start()
        while state.get("state") != "running" and not ended.is_set():
            time.sleep(0.02)
        yield lambda: not ended.is_set()
        ended.wait(600)
    print(f"indexing: {state['state']}, {state['result']}, {state['seconds']:.1f} s")


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=int, default=6)
    parser.add_argument("--pages", type=int, default=12, help="pages of the PDF, each with a picture")
    parser.add_argument("--answer", type=int, default=24, help="longest answer of a chat, tokens")
    args = parser.parse_args()
    data = data_folder()
    with (
        tempfile.TemporaryDirectory() as folder,
        host(Path(folder), "--max-answer", str(args.answer), data_dir=data) as running,
    ):
        running.wait_sidecar()
        measure(running, 2, lambda: True)
        with indexing(running, 1):  # both models are loaded before anything is measured
            pass
        idle = measure(running, args.chats, lambda: True)
        with indexing(running, args.pages) as going_on:
            busy = measure(running, args.chats, going_on)
    if not busy[0]:
        print("the document was indexed before a chat had ended: give more --pages")
        return 1
    first, token = statistics.median(idle[0]), statistics.median(idle[2])
    print(f"idle: first words after {first * 1000:.0f} ms, then every {token * 1000:.0f} ms ({len(idle[0])} chats)")
    for name, before, after, unit in (
        ("time to first words", idle[0], busy[0], first),
        ("longest gap ÷ idle time between words", idle[1], busy[1], token),
    ):
        figures = [f"{pick(side) / unit:.2f}×" for side in (before, after) for pick in (statistics.median, max)]
        print(f"{name}: idle median {figures[0]}, max {figures[1]}; beside indexing {figures[2]}, {figures[3]}")
    print(f"({len(busy[0])} chats beside indexing)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
