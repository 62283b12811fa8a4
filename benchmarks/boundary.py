"""What the process boundary costs: the same engine in this process and behind the socket, answer about answer.

Both get the same greedy completion of the starter, in turns, from the same program; what is timed is the text's pieces
as the listener's client gets them. So the difference is the boundary: MessagePack, the socket, two interpreters. It is
told as a ratio of a token and as milliseconds of a first token (goals: 1.01 and 2).

python -m benchmarks.boundary --rounds 20
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import clients
from sidecar.config import Settings
from sidecar.engine.client import EngineClient
from sidecar.engine.messages import Generate, Piece, Sampling
from sidecar.process.engine_start import Launcher
from tests.support.engines import LocalClient
from tests.support.servers import data_folder

PROMPT = "Once upon a time in a harbour full of boats there was a gull who "


async def answer(client: EngineClient, path: Path, tokens: int) -> tuple[float, float]:
    """Return seconds to the first token, and from there on for each token."""
    never = Sampling(temperature=0.0, ignore_eos=True)
    request = Generate(id=0, path=str(path), samplings=(never,), prompts=(PROMPT,), max_tokens=tokens)
    start = time.perf_counter()
    first, count, last = 0.0, 0, start
    async for reply in client.generate(request):
        if isinstance(reply, Piece) and reply.tokens:
            last = time.perf_counter()
            first = first or last - start
            count += len(reply.tokens)
    return first, (last - start - first) / (count - 1)


async def measure(settings: Settings, path: Path, rounds: int, tokens: int) -> dict[str, list[tuple[float, float]]]:
    """Return the times of each side's answers, asked in turns. The first two of each are not counted."""
    inside = LocalClient(settings)
    launcher = Launcher(settings)
    sides: dict[str, EngineClient] = {"in this process": inside, "behind the socket": EngineClient(launcher)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    try:
        for client in sides.values():
            await client.load(path)
        for number in range(rounds + 2):
            for name, client in sides.items() if number % 2 else reversed(sides.items()):
                times = await answer(client, path, tokens)
                if number > 1:
                    found[name].append(times)
    finally:
        for client in sides.values():
            await client.close()
        await launcher.close()
        inside.local.stop()
    return found


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    data = data_folder()
    with tempfile.TemporaryDirectory(prefix="boundary-") as folder:
        settings = Settings(state_dir=Path(folder), data_dir=data, prefix_cache_mb=0)
        found = asyncio.run(measure(settings, data / "models" / "starter", args.rounds, args.tokens))
    medians = {n: [1000 * statistics.median(column) for column in zip(*t, strict=True)] for n, t in found.items()}
    base = medians["in this process"]
    rows = [
        [name, f"{first:.1f}", f"{first - base[0]:+.1f}", f"{each:.2f}", f"{each / base[1]:.3f}"]
        for name, (first, each) in medians.items()
    ]
    head = ["engine", "first token ms", "more ms", "a token ms", "ratio"]
    sys.stdout.write(clients.table(head, rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
