"""From spawn to /health and to the first token: the frozen program, the sources, and mlx_vlm.server. In one run.

python -m benchmarks.start --rounds 5
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from benchmarks import clients

ROOT = Path(__file__).resolve().parent.parent


def once(command: Sequence[str], port: int, model: str | None) -> tuple[float, float, float]:
    """Seconds to /health, MB resident then, seconds to the first token (nan without ``model``)."""
    start = time.perf_counter()
    process = subprocess.Popen(list(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as http:
            while True:
                try:
                    http.get("/health")
                    break
                except httpx.HTTPError:
                    time.sleep(0.002)
            health = time.perf_counter() - start
            resident = psutil.Process(process.pid).memory_info().rss / 1e6
            token = float("nan")
            if model is not None:
                body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
                http.post("/v1/chat/completions", json=body).raise_for_status()
                token = time.perf_counter() - start
            return health, resident, token
    finally:
        process.kill()
        process.wait()


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    frozen = ROOT / "dist" / "mlx-sidecar" / "mlx-sidecar"
    rows, base = [], 0.0
    programs = {
        "mlx_vlm.server, sources": [sys.executable, "-m", "mlx_vlm.server", "--port"],
        "ours, sources": [sys.executable, "-m", "sidecar.entry", "serve", "--strict-port", "--port"],
    }
    if frozen.exists():
        programs["ours, frozen"] = [str(frozen), "serve", "--strict-port", "--port"]
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in programs}
    for _ in range(args.rounds):
        for name, command in programs.items():
            port = clients.free_port()
            state = tempfile.mkdtemp(prefix="bench-")
            extra = [] if name.startswith("mlx_vlm") else ["--state-dir", state]
            model = None if name.startswith("mlx_vlm") else "starter"
            results[name].append(once([*command, str(port), *extra], port, model))
            shutil.rmtree(state, ignore_errors=True)
    for name, found in results.items():
        health, resident, token = (statistics.median(column) for column in zip(*found, strict=True))
        base = base or health
        rows.append([name, f"{health:.2f}", f"{base / health:.1f}×", f"{resident:.0f}", f"{token:.2f}"])
    head = ["program", "spawn → /health s", "faster", "resident MB", "spawn → first token s"]
    sys.stdout.write(clients.table(head, rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
