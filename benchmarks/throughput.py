"""Equal requests through the engine, and through mlx-vlm's bare BatchGenerator, in one process: tokens a second.

    python -m benchmarks.throughput --requests 1 4 8 16
    python -m benchmarks.throughput --model /path/to/a/model --prompt 512

Both get the same prompts (all different, of equal length) and give the same number of tokens, greedily; the two take
turns. The figure is ours ÷ bare, the median over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import clients
from sidecar.config import load
from sidecar.engine.messages import Sampling, Tier
from sidecar.engine.metrics import Meter
from sidecar.engine.rows import Done, Event, Failed, GenerationRequest, Prompt, Token
from sidecar.engine.thread import EngineThread


def prompts(count: int, length: int, vocab: int) -> list[list[int]]:
    """``count`` different prompts of ``length`` tokens."""
    return [[100 + (i * 7919 + j * 104729) % (vocab - 200) for j in range(length)] for i in range(count)]


def ours(
    engine: EngineThread, path: Path, batch: Sequence[Sequence[int]], tokens: int, tier: Tier
) -> tuple[float, int]:
    """Seconds and tokens of all requests through the engine. Raises RuntimeError."""
    left, counted, failed = len(batch), 0, ""
    lock, done = threading.Lock(), threading.Event()

    def sink(events: Sequence[Event]) -> None:
        nonlocal left, counted, failed
        with lock:
            for event in events:
                counted += isinstance(event, Token)
                if isinstance(event, Failed):
                    failed = event.message
                if isinstance(event, (Done, Failed)):
                    left -= 1
        if left == 0:
            done.set()

    start = time.perf_counter()
    gate = threading.Event()

    def hold() -> None:  # all are there before the first begins, as for the bare loop
        gate.wait()

    engine._put(hold)
    for ids in batch:
        request = GenerationRequest(
            prompt=Prompt(tokens=tuple(ids)),
            sampling=Sampling(temperature=0.0),
            max_tokens=tokens,
            tier=tier,
            sink=sink,
            arrived=time.monotonic(),
        )
        engine.submit(path, request)
    gate.set()
    done.wait()
    if failed:
        raise RuntimeError(failed)
    return time.perf_counter() - start, counted


def bare(model: Any, processor: Any, batch: Sequence[Sequence[int]], tokens: int) -> tuple[float, int]:
    """Seconds and tokens of the same through BatchGenerator, as mlx-vlm's ``batch_generate`` drives it."""
    import mlx.core as mx
    from mlx_vlm.generate import ar

    start = time.perf_counter()
    generator = ar.BatchGenerator(
        model.language_model,
        processor,
        prefill_batch_size=len(batch),
        completion_batch_size=len(batch),
        compute_logprobs=True,  # the engine has them too
    )
    features = model.get_input_embeddings(mx.array([list(ids) for ids in batch]), None)
    kwargs = ar._split_prompt_kwargs_per_row({k: v for k, v in features.to_dict().items() if v is not None}, len(batch))
    generator.insert([list(ids) for ids in batch], tokens, prompt_kwargs=kwargs)
    counted = 0
    while generator.has_work:
        _, responses = generator.next()
        counted += len(responses)
    generator.close()
    return time.perf_counter() - start, counted


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder (default: the starter model)")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    settings = replace(load(), max_rows=max(args.requests), prefix_cache_mb=0)
    path = args.model or settings.data_dir / "models" / "starter"
    died: list[BaseException] = []
    engine = EngineThread(settings, Meter(), on_death=died.append)
    loaded = engine.load(path).result()
    loaded.eos = ()
    from mlx_vlm import utils

    model, processor = utils.load(str(path))
    tokenizer = getattr(processor, "tokenizer", processor)
    vocab = len(tokenizer)
    type(tokenizer.stopping_criteria).__call__ = lambda *_: False  # answers of equal length
    rows = []
    for count in args.requests:
        ratios, speeds, bares = [], [], []
        for number in range(args.rounds + 1):
            batch = prompts(count, args.prompt, vocab)
            seconds, counted = ours(engine, path, batch, args.tokens, Tier.INTERACTIVE)
            bare_seconds, bare_counted = bare(model, processor, batch, args.tokens)
            if counted != count * args.tokens or bare_counted != counted:
                raise RuntimeError(f"{counted} and {bare_counted} tokens in place of {count * args.tokens}")
            if number:  # the first warms both up
                speeds.append(counted / seconds)
                bares.append(bare_counted / bare_seconds)
                ratios.append(bare_seconds / seconds)
        rows.append(
            [
                str(count),
                f"{statistics.median(speeds):.1f}",
                f"{statistics.median(bares):.1f}",
                f"{statistics.median(ratios):.3f}",
                f"{min(ratios):.3f} … {max(ratios):.3f}",
            ]
        )
        sys.stderr.write(" ".join(rows[-1]) + "\n")
    sys.stdout.write(f"{path.name}, prompts of {args.prompt}, answers of {args.tokens} tokens\n")
    sys.stdout.write(clients.table(["requests", "ours tok/s", "bare tok/s", "ours ÷ bare", "range"], rows) + "\n")
    engine.stop()
    sys.stdout.flush()
    sys.stderr.flush()
    # As the engine's process ends. At a usual end MLX's destructors abort the process ("terminate called without an
    # active exception") where a thread that used mlx-vlm's stream has ended before.
    os._exit(1 if died else 0)


if __name__ == "__main__":
    sys.exit(main())
