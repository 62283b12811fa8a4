"""Run every model family through the matrix and write docs/reference/families.md: `make families`.

Each family has a process of its own, two at a time, so that none sees what another left in mlx-vlm. Exits 1 while a
cell is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path

from tests.support.families import FAMILIES, NOT_MADE, over_http
from tests.support.families.folder import cache_root
from tests.support.families.matrix import Row
from tests.support.families.scenes import COLUMNS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "families.md"
NOBODY = ("hear", "this program takes no sound")
"""True of every family, and not said of each."""
HEAD = """# Model families

Written by `make families`. Each family is a tiny model with random weights ({versions}), run on the CPU in float32.
Every answer is compared with mlx-vlm's own generation, token for token and by each token's log-probability (5e-3;
scores within 2e-3 of each other may change places). It says nothing about the quality of a real model, and nothing
about Metal.

"""
MEANING = """
**no**: what the engine doesn't do with this family (answers are right without it). **-**: does not apply, or mlx-vlm
itself fails there. *pieces*: prompts cut at 8, 64 and 256 tokens. *long*: a text longer than every window, in pieces,
alone and beside a chat. *groups*: texts of different lengths processed together. *at once*: texts and pictures
together. *joined*: rows join and leave one by one. *interleaved*: another request begins in the middle of a prompt or
an answer. *turn 2 cold*, *turn 2 kept*: a second turn without and with the kept prefix. *own answer kept*: a turn after
the model's own answer. *never mixed*: the same text with other pictures. *batch tier*: batch rows beside interactive
ones. *company*: rows that ask for penalties, scores or a seed join. *cancel*: requests that go away. *eight*: beside
seven others. *at random*: requests come, join and go at random, in random pieces. *resumed*: an answer goes on after
its third token. *server*: over HTTP, alone, beside seven others (one of them long, in pieces) and a second turn; -
where sizes had to be changed in mlx-vlm's code, which a server's own process doesn't see.
"""


def run(name: str, url: str) -> Row:
    """Return a family's line, run in a process of its own; ``url``: of a server with all families."""
    code = (
        "import json, sys, dataclasses\n"
        "from tests.support.families import matrix\n"
        "matrix.quiet()\n"
        "row = matrix.run(sys.argv[1], url=sys.argv[2])\n"
        "print(chr(30) + json.dumps(dataclasses.asdict(row)))\n"
    )
    command = [sys.executable, "-c", code, name, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    if done.returncode or chr(30) not in done.stdout:
        return Row(name, refused=f"its process ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return Row(**json.loads(done.stdout.rsplit(chr(30), 1)[1]))


def cell(row: Row, column: str) -> str:
    """Return what the table says of a family in a column."""
    if column not in row.cells:
        return "-"
    return "**WRONG**" if row.cells[column] else "ok"


def page(rows: Sequence[Row]) -> str:
    """Return the page."""
    names = {"mlx-vlm": "mlx-vlm", "mlx": "mlx", "transformers": "transformers"}
    out = HEAD.format(versions=", ".join(f"{n} {metadata.version(p)}" for n, p in names.items()))
    columns = [*COLUMNS, "server"]
    out += "| family | " + " | ".join(columns) + " | no |\n" + "|---" * (len(columns) + 2) + "|\n"
    loaded = [row for row in rows if not row.refused]
    for row in loaded:
        no = ", ".join(what for what, why in row.record.items() if (what, why) != NOBODY)
        out += f"| {row.name} | " + " | ".join(cell(row, c) for c in columns) + f" | {no} |\n"
    out += MEANING + "\n## What the engine doesn't do, and why\n\n"
    for row in loaded:
        for what, why in row.record.items():
            if (what, why) != NOBODY:
                out += f"- {row.name}, {what}: {_line(why)}\n"
    out += "\n## What mlx-vlm itself does otherwise\n\n"
    out += "".join(f"- {row.name}: {kind}: {_line(why)}\n" for row in loaded for kind, why in row.own.items())
    out += "\n## Not in the table\n\n"
    out += "".join(f"- {row.name}: refused: {_line(row.refused)}\n" for row in rows if row.refused)
    return out + "".join(f"- {name}: {_line(why)}\n" for name, why in NOT_MADE.items())


def kept(file: Path) -> dict[str, Row]:
    """Return the lines that earlier runs left, by family."""
    if not file.exists():
        return {}
    return {name: Row(**row) for name, row in json.loads(file.read_text("utf-8")).items() if name in FAMILIES}


def keep(file: Path, rows: Mapping[str, Row]) -> None:
    """Keep lines, so that a run that is stopped can be gone on with by naming what is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({name: asdict(row) for name, row in rows.items()}), "utf-8")


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families whose lines are made anew; all without any")
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--rows", type=Path, default=cache_root() / "rows.json", help="where lines are kept")
    arguments = parser.parse_args()
    rows = []
    known = kept(arguments.rows) if arguments.names else {}
    names = arguments.names or list(FAMILIES)
    with (
        tempfile.TemporaryDirectory(prefix="families-") as folder,
        over_http.server(Path(folder), names) as url,
        ThreadPoolExecutor(2) as pool,
    ):
        for row in pool.map(partial(run, url=url), names):
            rows.append(row)
            known[row.name] = row
            keep(arguments.rows, known)
            wrong = {c: lines for c, lines in row.cells.items() if lines}
            print(
                row.name, "refused" if row.refused else "WRONG" if wrong else "ok", f"{row.seconds:.0f} s", flush=True
            )
            for column, lines in wrong.items():
                print(f"    {column}: {'; '.join(lines[:3])}"[:400])
            if row.refused:
                print(f"    {row.refused}")
    arguments.out.write_text(page([known[name] for name in FAMILIES if name in known]), "utf-8")
    cells = sum(len(row.cells) for row in rows)
    bad = sum(bool(lines) for row in rows for lines in row.cells.values())
    print(f"{len(rows)} families, {cells} cells, {bad} wrong, {sum(bool(r.refused) for r in rows)} refused")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
