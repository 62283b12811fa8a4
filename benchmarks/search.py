"""Search over many chunks, by words and by meaning, without a model: made texts and made vectors.

    python -m benchmarks.search --chunks 100000

Times are of the store alone; a query's embedding comes on top of them.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from host_api.app.documents import ranking
from host_api.app.documents.vectors import Child, Vectors

SIZE = 384
WORDS = [
    f"{a}{b}"
    for a in ("bar", "mon", "tel", "gra", "sil", "ver", "lum", "kor")
    for b in ("ent", "ula", "ick", "oss", "and")
]
CHINESE = (
    "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈剑号巨阙珠称夜光"
)


def text(dice: random.Random, number: int) -> str:
    """Return a made chunk of about 40 words, every third one Chinese, with one word of its own."""
    if number % 3 == 0:
        return "".join(dice.choices(CHINESE, k=120)) + f" z{number}"
    return " ".join(f"{word}{dice.randrange(500)}" for word in dice.choices(WORDS, k=40)) + f" z{number}"


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=40)
    args = parser.parse_args()
    dice = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        store = Vectors(Path(folder))
        start = time.perf_counter()
        for first in range(0, args.chunks, 2500):  # documents of 2,500 chunks
            job = f"{first:032x}"
            rows = [
                Child(job, "1", i, 0, text(dice, first + i), "", [dice.gauss(0, 1) for _ in range(SIZE)])
                for i in range(min(2500, args.chunks - first))
            ]
            store.replace("made", job, "1", rows)
        written = time.perf_counter() - start
        store.compact()
        ordered = time.perf_counter() - start - written
        print(f"{args.chunks:,} chunks: written in {written:.0f} s, put in order in {ordered:.0f} s")
        files = [p for p in Path(folder).rglob("*") if p.is_file()]
        print(f"{len(files)} files, {sum(p.stat().st_size for p in files) / 1e6:.0f} MB")
        times: dict[str, list[float]] = {"by words": [], "by meaning": [], "both": []}
        found = 0
        for i in range(args.queries):
            number = dice.randrange(args.chunks)
            query = f"z{number} {dice.choice(WORDS)}{dice.randrange(500)} {''.join(dice.choices(CHINESE, k=4))}"
            vector = [dice.gauss(0, 1) for _ in range(SIZE)]
            one = time.perf_counter()
            worded = store.with_words(query, 60)
            two = time.perf_counter()
            near = store.near("made", vector, 60)
            three = time.perf_counter()
            order = ranking.fused(query, near, worded)
            end = time.perf_counter()
            found += any(hit.text.endswith(f"z{number}") for _, _, hit in order[:5])
            if i >= 5:  # the first ones open files
                for name, took in (("by words", two - one), ("by meaning", three - two), ("both", end - one)):
                    times[name].append(took * 1000)
        for name, measured in times.items():
            print(f"{name}: median {statistics.median(measured):.1f} ms, longest {max(measured):.1f} ms")
        print(f"the chunk with the rare word is among the first five: {found} of {args.queries}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
