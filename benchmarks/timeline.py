"""Where the time went: the engine's units of work over time, drawn from logs of units, and what they add up to.

    mlx-sidecar serve --unit-log before.jsonl …
    python -m benchmarks.timeline before.jsonl after.jsonl --seconds 12 --svg timeline.svg

A lane for each log, one above the other on one scale of time: each unit a bar as wide as it took, coloured by its kind,
and above it a line for each gap between two interactive tokens. The table sums up each log.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import clients

COLOURS = {
    "decode": "#3b7dd8",
    "shared": "#7fb2f0",
    "batch decode": "#b9c3cf",
    "mixed": "#2e9d63",
    "prefill": "#e0822f",
    "batch prefill": "#f2c493",
    "begin": "#8a5fbf",
    "encode": "#c2456b",
    "call": "#777777",
}
WIDTH, LANE, LEFT = 1400, 120, 70
GAPS = 60
"""Pixels, of which the gaps' part of a lane has so many."""

Unit = dict[str, Any]


def read(path: Path) -> list[Unit]:
    """Return the units of a log in order; a line cut off at the end is left out."""
    units = []
    for line in path.read_text("utf-8").splitlines():
        try:
            units.append(json.loads(line))
        except ValueError:
            continue
    return sorted(units, key=lambda unit: float(unit["at"]))


def kind(unit: Unit) -> str:
    """Return what a unit is drawn as."""
    name, batch = str(unit["unit"]), unit["tier"] == "batch"
    if name == "decode" and not batch and unit.get("shared"):
        return "shared"
    return f"batch {name}" if batch and name in ("decode", "prefill") else name


def token_times(units: Sequence[Unit]) -> list[float]:
    """Return when interactive tokens were there, seconds: after a decode of theirs, and after their prompts' end."""
    return [
        float(unit["at"]) + float(unit["ms"]) / 1000
        for unit in units
        if unit["unit"] in ("decode", "mixed") and unit["tier"] == "interactive" and unit.get("rows")
    ]


def gaps(units: Sequence[Unit], *, pause: float = 3.0) -> list[tuple[float, float]]:
    """Return (end, seconds) of each gap between interactive tokens; over ``pause`` seconds nobody was there."""
    times = token_times(units)
    return [(b, b - a) for a, b in itertools.pairwise(times) if b - a < pause]


def summary(name: str, units: Sequence[Unit]) -> list[str]:
    """Return one line of the table."""
    found = [gap for _, gap in gaps(units)]
    total = sum(float(unit["ms"]) for unit in units) / 1000
    span = float(units[-1]["at"]) - float(units[0]["at"]) if units else 0.0
    passes = [unit for unit in units if unit["unit"] in ("decode", "mixed", "prefill")]
    rows = sum(int(u.get("rows", 0)) + int(u.get("shared", 0)) for u in passes)
    prompt = sum(int(u.get("tokens", 0)) for u in passes)
    return [
        name,
        str(len(units)),
        f"{total / span:.0%}" if span else "-",
        f"{statistics.median(found) * 1000:.0f} / {max(found) * 1000:.0f}" if found else "-",
        f"{rows / len(passes):.1f}" if passes else "-",
        f"{prompt / len(passes):.1f}" if passes else "-",
        f"{rows / span:.1f}" if span else "-",
        f"{prompt / span:.1f}" if span else "-",
    ]


def svg(logs: Sequence[tuple[str, Sequence[Unit]]], seconds: float) -> str:
    """Return a drawing of the first ``seconds`` of each log."""
    height = 40 + LANE * len(logs) + 30
    scale = (WIDTH - LEFT - 10) / seconds
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, (name, colour) in enumerate(COLOURS.items()):
        x: float = LEFT + number * 140
        out.append(f'<rect x="{x}" y="10" width="14" height="14" fill="{colour}"/>')
        out.append(f'<text x="{x + 19}" y="22" font-size="13">{name}</text>')
    for number, (name, units) in enumerate(logs):
        top = 40 + LANE * number
        out.append(f'<text x="4" y="{top + LANE - 22}" font-size="13">{name}</text>')
        start = float(units[0]["at"]) if units else 0.0
        shown = [unit for unit in units if float(unit["at"]) - start < seconds]
        longest = max((gap for _, gap in gaps(shown)), default=1.0)
        for unit in shown:
            x = LEFT + (float(unit["at"]) - start) * scale
            width = max(0.4, float(unit["ms"]) / 1000 * scale - 0.3)
            colour = COLOURS.get(kind(unit), "#000000")
            title = " ".join(f"{key} {value}" for key, value in unit.items())
            out.append(
                f'<rect x="{x:.1f}" y="{top + GAPS + 5}" width="{width:.1f}" height="{LANE - GAPS - 20}" '
                f'fill="{colour}"><title>{title}</title></rect>'
            )
        for end, gap in gaps(shown):
            x, tall = LEFT + (end - start) * scale, gap / longest * (GAPS - 10)
            out.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + GAPS:.1f}" y2="{top + GAPS - tall:.1f}" stroke="#222"/>'
            )
        out.append(f'<text x="4" y="{top + 22}" font-size="11">gap ≤ {longest * 1000:.0f} ms</text>')
    for second in range(int(seconds) + 1):
        x = LEFT + second * scale
        out.append(f'<text x="{x:.1f}" y="{height - 8}" font-size="11" text-anchor="middle">{second} s</text>')
    return "\n".join([*out, "</svg>\n"])


def main() -> int:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+", help="files that --unit-log wrote")
    parser.add_argument("--seconds", type=float, default=10.0, help="drawn of each")
    parser.add_argument("--skip", type=float, default=0.0, help="seconds left out at the beginning of each")
    parser.add_argument("--svg", type=Path, help="where the drawing goes")
    args = parser.parse_args()
    logs = []
    for path in args.logs:
        units = read(path)
        begin = float(units[0]["at"]) + args.skip if units else 0.0
        logs.append((path.stem, [unit for unit in units if float(unit["at"]) >= begin]))
    if args.svg is not None:
        args.svg.write_text(svg(logs, args.seconds), "utf-8")
    head = ["log", "units", "busy", "gap ms, median / max", "rows a pass", "prompt tokens a pass"]
    head += ["rows' tokens/s", "prompt tokens/s"]
    sys.stdout.write(clients.table(head, [summary(name, units) for name, units in logs]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
