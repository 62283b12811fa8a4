"""What large and hostile bodies cost the listener: CPU seconds, memory over idle, and the longest /health meanwhile.

Each body is sent to a real server, which refuses or answers it; no model is needed for that.

    python -m benchmarks.bodies --mb 64
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from benchmarks import clients

CHAT = "/v1/chat/completions"
RECEIVED = "received and refused"
"""A body that is refused after its first megabyte was looked at: what it costs to receive so many bytes."""


def bodies(size: int) -> dict[str, tuple[str, Callable[[], bytes]]]:
    """Return by name the path and the maker of each body of about ``size`` bytes."""

    def chat(content: bytes) -> bytes:
        return b'{"model":"none","messages":[{"role":"user","content":%s}]}' % content

    def text(unit: bytes) -> Callable[[], bytes]:
        return lambda: chat(b'"' + unit * (size // len(unit)) + b'"')

    def listed(head: bytes, unit: bytes, most: int = 10**9) -> Callable[[], bytes]:
        return lambda: b'{"model":"none",%s:[%s]}' % (head, b",".join([unit] * min(most, size // (len(unit) + 1))))

    part = b'{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}' % (b"QUJD" * (size // 64))
    return {
        RECEIVED: ("/v1/embeddings", lambda: b'{"input":[' + b"," * size + b"]}"),
        "16 pictures": (CHAT, lambda: chat(b"[" + b",".join([part] * 16) + b"]")),
        "one text": (CHAT, text(b"a line of text ")),
        "escaped letters": (CHAT, text(b"\\u0041")),
        "escaped emoji": (CHAT, text(b"\\ud83d\\ude00")),
        "half an emoji in a long text": (CHAT, lambda: chat(b'"\\ud83d' + b"a line of text " * (size // 15) + b'"')),
        "an emoji in a long text": (
            CHAT,
            lambda: chat(b'"' + b"a line of text " * (size // 15) + b'\xf0\x9f\x98\x80"'),
        ),
        "an emoji in 10 MB of text": (CHAT, lambda: chat(b'"' + b"a line of text " * 650_000 + b'\xf0\x9f\x98\x80"')),
        "emoji": (CHAT, text("\U0001f600".encode())),
        "line breaks": (CHAT, text(b"\\n")),
        "numbers": ("/v1/embeddings", listed(b'"input"', b"1")),
        "a million numbers": ("/v1/embeddings", listed(b'"input"', b"1", 999_000)),
        "long numbers": ("/v1/embeddings", listed(b'"input"', b"1" * 60, 999_000)),
        "objects": (CHAT, listed(b'"messages"', b"{}")),
        "half a million objects": (CHAT, listed(b'"messages"', b"{}", 490_000)),
        "texts of a byte": ("/v1/embeddings", listed(b'"input"', b'"a"', 999_000)),
        "one deep list": ("/v1/embeddings", lambda: b'{"input":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}"),
        "colons": (CHAT, lambda: b'{"model":"none","tools":[{%s}]}' % b",".join([b'"a":1'] * min(999_000, size // 6))),
        "white space": (CHAT, lambda: b"{" + b" " * size + b"}"),
    }


def send(url: str, pid: int, path: str, body: bytes) -> tuple[int, float, float, float]:
    """Return status, CPU seconds, MB over idle at most, and the longest /health in milliseconds."""
    process = psutil.Process(pid)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    idle = process.memory_info().rss
    over, longest = threading.Event(), [0.0]

    def probe() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            while not over.is_set():
                start = time.perf_counter()
                http.get("/health")
                longest[0] = max(longest[0], time.perf_counter() - start)
                time.sleep(0.02)

    thread = threading.Thread(target=probe)
    thread.start()
    time.sleep(0.3)
    before = sum(process.cpu_times()[:2])
    answer = httpx.post(url + path, content=body, headers={"Content-Type": "application/json"}, timeout=120)
    used = sum(process.cpu_times()[:2]) - before
    over.set()
    thread.join()
    peak = next(
        int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line
    )
    return answer.status_code, used, (peak * 1024 - idle) / 1e6, longest[0] * 1000


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=63)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    rows, per_mb = [], 0.0
    for name, (path, make) in bodies(args.mb << 20).items():
        if args.only not in name and name != RECEIVED:
            continue
        port = clients.free_port()
        command = [sys.executable, "-m", "sidecar.entry", "serve", "--port", str(port), "--strict-port"]
        command += ["--state-dir", str(clients.state_of(port)), "--no-warm-start"]
        with clients.serving(command, port, ready="/health") as url:
            pid = json.loads(httpx.get(url + "/health").content)["pid"]
            body = make()
            status, used, memory, longest = send(url, pid, path, body)
        size = len(body) / 1e6
        per_mb = used / size if name == RECEIVED else per_mb
        rows.append([name, f"{size:.1f}", str(status), f"{used:.2f}", f"{max(0.0, used - per_mb * size):.2f}"])
        rows[-1] += [f"{memory / size:.1f}", f"{longest:.0f}"]
    head = ["body", "MB", "status", "CPU s", "without receiving it", "memory ÷ size", "longest /health ms"]
    sys.stdout.write(clients.table(head, rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
