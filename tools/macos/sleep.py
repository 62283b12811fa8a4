"""A host, its sidecar and a chat before and after the machine sleeps.

On a Mac with a terminal the person is asked to close the lid; elsewhere host, sidecar and engine are stopped by SIGSTOP
for 20 seconds in its place (their clocks run on, which on a sleeping Mac they do not).

python -m tools.macos.sleep dist/mlx-sidecar/mlx-sidecar
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

_STOPPED = 20.0  # seconds


def ask(record: dict[str, Any]) -> str:
    """Return the answer of the sidecar in a record about the capital of France."""
    headers = {"Authorization": f"Bearer {record['token']}"} if record["token"] else {}
    body = {
        "model": "starter",
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    with httpx.Client(trust_env=False, timeout=120) as http:
        answer = http.post(f"http://127.0.0.1:{record['port']}/v1/chat/completions", json=body, headers=headers)
    return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])


def record_of(state: Path, limit: float = 60.0) -> dict[str, Any]:
    """Return the record of the sidecar that runs, once it is ready. Raises SystemExit after ``limit`` seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            record: dict[str, Any] = json.loads((state / "sidecar.pid").read_text().splitlines()[1])
            if record.get("port"):
                return record
        except (OSError, ValueError, IndexError):
            pass
        time.sleep(0.1)
    raise SystemExit("no sidecar came up")


def nap(processes: list[psutil.Process]) -> None:
    """Let the machine, or these processes, sleep."""
    if sys.platform == "darwin" and sys.stdin.isatty():
        input("Close the lid now, open it after a minute or more, then press Return: ")
        return
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(_STOPPED)
    for process in processes:
        process.send_signal(signal.SIGCONT)


def main(program: str) -> int:
    """Print ``went on`` when the same sidecar answers the same afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        code = (
            "import sys, pathlib; from host_api import *\n"
            "with SidecarHost(HostConfig(state_dir=pathlib.Path(sys.argv[1]), "
            "launch=LaunchSpec(command=(sys.argv[2],), port=0, grace_time=2))) as host: sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, str(state), str(Path(program).resolve())]
        host = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
        try:
            before = record_of(state)
            first = ask(before)
            sidecar = psutil.Process(before["pid"])
            nap([psutil.Process(host.pid), sidecar, *sidecar.children(recursive=True)])
            time.sleep(3)  # for a watcher that would wrongly replace what slept
            after = record_of(state)
            second = ask(after)
        finally:
            assert host.stdin is not None
            host.stdin.close()
            host.wait(30)
    print(f"before: {before['pid']} {first!r}; after: {after['pid']} {second!r}")
    if first != second or "Paris" not in second:
        return 1
    print("went on" if before["pid"] == after["pid"] else "was replaced")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
