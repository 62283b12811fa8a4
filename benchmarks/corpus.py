"""Every file of some folders through the readers in their child: what is read, refused in words, or fails.

    python -m benchmarks.corpus FOLDER... --most 400

Prints a table by the file names' endings: read, refused (with the commonest words), failed (crash, time, memory).
"""

from __future__ import annotations

import argparse
import collections
import itertools
import random
import sys
import time
from pathlib import Path

from host_api.app.documents import readers, reading
from host_api.app.errors import ApiError


def outcome(path: Path) -> tuple[str, str, int]:
    """Read a file; return what came of it, in a word and in words, and how many characters and pictures it gave."""
    try:
        document = reading.Document(path.name, path.read_bytes())
        pages = list(document.pages())
    except ApiError as exc:
        failed = exc.code == "document_too_large" or "can't be read (" in exc.message
        words = exc.message if failed else exc.message.partition(": ")[2] or exc.message
        return ("failed" if failed else "refused"), words, 0
    return "read", "", sum(len(p.text) + len(p.pictures) for p in pages)


def main() -> int:
    """Read the files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--most", type=int, default=400)
    parser.add_argument("--each", type=int, default=40, help="most files of one ending")
    parser.add_argument("--endings", nargs="*", default=[], help="these alone, without their points")
    args = parser.parse_args()
    by_ending: dict[str, list[Path]] = collections.defaultdict(list)
    for folder in args.folders:
        for path in sorted(folder.rglob("*")):
            wanted = readers.is_named_as_document(path.name) or path.suffix in (".doc", ".xls", ".ppt", ".msg", ".zip")
            if wanted and path.is_file() and not path.is_symlink() and 0 < path.stat().st_size < 8_000_000:
                by_ending[path.suffix.lower()].append(path)
    dice = random.Random(3)
    drawn = [
        dice.sample(paths, min(len(paths), args.each))
        for ending, paths in sorted(by_ending.items())
        if not args.endings or ending.lstrip(".") in args.endings
    ]
    in_turns = itertools.zip_longest(*drawn)  # one of each ending, then the next: a small number has them all
    chosen = [path for turn in in_turns for path in turn if path is not None][: args.most]
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    said: collections.Counter[str] = collections.Counter()
    slowest = (0.0, "")
    for path in chosen:
        start = time.perf_counter()
        how, why, size = outcome(path)
        slowest = max(slowest, (time.perf_counter() - start, path.name))
        table[path.suffix.lower()][how if size or how != "read" else "empty"] += 1
        if why:
            said[f"{how}: {why[:110]}"] += 1
        if how == "failed":
            print(f"failed: {path}: {why}")
    print(f"{'':8}{'read':>6}{'empty':>7}{'refused':>9}{'failed':>8}")
    for ending, counts in sorted(table.items()):
        print(f"{ending:8}{counts['read']:6}{counts['empty']:7}{counts['refused']:9}{counts['failed']:8}")
    total = sum(table.values(), collections.Counter[str]())
    print(f"{'all':8}{total['read']:6}{total['empty']:7}{total['refused']:9}{total['failed']:8}")
    print(f"{len(table)} endings; the slowest, {slowest[1]}, took {slowest[0]:.1f} s")
    for words, count in said.most_common(12):
        print(f"{count:4} × {words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
