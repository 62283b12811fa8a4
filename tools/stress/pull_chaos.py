"""A pull killed again and again at random bytes: it must arrive whole, and hardly a byte twice.

A hub on this machine (real sockets) serves a model of random bytes; ``mlx-sidecar pull`` runs as a process of its own
and is killed with SIGKILL after a random number of new bytes, then started again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sidecar.models.downloads.store import Store
from tests.support.fake_hub import FakeHub

_BLOCK = 1 << 20


def chaos(folder: Path, *, megabytes: int, kills: int, seed: int, rate: float = 4e7) -> dict[str, Any]:
    """Run it in ``folder``; how often killed, bytes fetched by bytes of the model, whether it arrived whole."""
    rng = random.Random(seed)
    weights = folder / "weights"
    block = bytearray(rng.randbytes(_BLOCK))
    with weights.open("wb") as out:
        for i in range(megabytes):
            block[:8] = i.to_bytes(8, "little")
            out.write(block)
    files: dict[str, bytes | Path] = {"config.json": b'{"model_type": "llama"}', "model.safetensors": weights}
    cache = folder / "cache"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLX_SIDECAR_", "HF_"))}
    done = 0
    start = time.monotonic()
    with FakeHub(files) as hub:
        # Slower than its client, as networks are: what the client never read would count as fetched.
        hub.rate = rate
        command = [sys.executable, "-m", "sidecar.entry", "pull", hub.hub_id, "--cache-dir", str(cache), "--json"]
        env["HF_ENDPOINT"] = hub.url
        cuts = sorted(rng.randrange(hub.total) for _ in range(kills))
        for cut in cuts:
            with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                try:
                    while process.poll() is None and _there(cache, hub) < cut:
                        time.sleep(0.002)
                    if process.poll() is None:
                        done += 1
                finally:
                    process.kill()
        final = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
        fetched = hub.sent() / hub.total
    snapshot = Store(cache, hub.hub_id).snapshot()
    whole = final.returncode == 0 and snapshot is not None and _same(snapshot / "model.safetensors", weights)
    return {
        "megabytes": megabytes,
        "kills": done,
        "fetched": round(fetched, 4),
        "whole": whole,
        "seconds": round(time.monotonic() - start, 1),
        "message": final.stderr.strip()[-300:],
    }


def _there(cache: Path, hub: FakeHub) -> int:
    blobs = cache / ("models--" + hub.hub_id.replace("/", "--")) / "blobs"
    try:
        return sum(p.stat().st_size for p in blobs.iterdir())
    except OSError:
        return -1


def _same(a: Path, b: Path) -> bool:
    with a.open("rb") as one, b.open("rb") as two:
        while True:
            x, y = one.read(_BLOCK), two.read(_BLOCK)
            if x != y:
                return False
            if not x:
                return True


def main() -> int:
    """Print the figures; exit status 1 when the model did not arrive, or too much was fetched twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2048)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rate", type=float, default=1e8, help="bytes a second the hub sends")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pull-chaos-") as folder:
        figures = chaos(Path(folder), megabytes=args.megabytes, kills=args.kills, seed=args.seed, rate=args.rate)
    print(json.dumps(figures))
    return 0 if figures["whole"] and figures["fetched"] <= 1.2 else 1


if __name__ == "__main__":
    sys.exit(main())
