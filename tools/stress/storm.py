"""Storm: many launchers of both kinds at once, round after round. ``python tools/stress/storm.py --help``.

Each round: all launchers start together on an empty state directory, hold what they get, and are compared. Right
is: one sidecar, everyone attached to it, nobody errs; and none left after the last has let go.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support import programs


def storm(rounds: int, python: int, rust: int, *, folder: Path, quick: bool, release: bool) -> list[list[object]]:
    """Run it; one row a round: launchers, sidecars, instances, errors, seconds, left over."""
    kinds = [programs.PYTHON] * python + [programs.rust(release=release)] * rust
    rows: list[list[object]] = []
    for number in range(rounds):
        with programs.swept(folder / f"state{number}") as state:
            sidecar = programs.FAULTY if quick else programs.REAL
            began = time.monotonic()
            args = ("--grace-time", "0.5", "--timeout", "120")
            # Both kinds take turns, so that neither is always first.
            order = sorted(range(len(kinds)), key=lambda i: (i * 7919 + number * 31) % len(kinds))
            holders = [kinds[i].start("hold", state, *args, sidecar=sidecar) for i in order]
            answers: list[dict[str, object]] = []
            try:
                for holder in holders:
                    try:
                        answers.append(holder.line(120))
                    except AssertionError as exc:
                        answers.append({"ok": False, "error": str(exc)})
                seconds = time.monotonic() - began
                running = len(programs.sidecars(state))
            finally:
                for holder in holders:
                    holder.let_go()
            good = [a["connection"] for a in answers if a["ok"]]
            errors = [a["error"] for a in answers if not a["ok"]]
            instances = {c["instance_id"] for c in good if isinstance(c, dict)}
            for error in errors[:3]:
                print("   error:", error)
            end = time.monotonic() + 20
            while programs.sidecars(state) and time.monotonic() < end and not quick:
                time.sleep(0.05)
            left = 0 if quick else len(programs.sidecars(state))
            rows.append([number + 1, len(good), running, len(instances), len(errors), seconds, left])
    return rows


def right(row: list[object], launchers: int) -> bool:
    """Whether a round went as it must."""
    return row[1:5] == [launchers, 1, 1, 0] and row[6] == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no round after this time")
    parser.add_argument("--python", type=int, default=20)
    parser.add_argument("--rust", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a stand-in for the sidecar that starts at once")
    parser.add_argument("--debug", action="store_true", help="the debug build of the Rust program")
    args = parser.parse_args()
    launchers = args.python + args.rust
    print(f"{'round':>5} {'attached':>8} {'sidecars':>8} {'instances':>9} {'errors':>6} {'seconds':>7} {'left':>4}")
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        rows: list[list[object]] = []
        limit = time.monotonic() + args.seconds
        for number in range(args.rounds):
            if time.monotonic() > limit:
                break
            for row in storm(
                1, args.python, args.rust, folder=Path(folder) / str(number), quick=args.quick, release=not args.debug
            ):
                row[0] = number + 1
                rows.append(row)
                print(
                    f"{row[0]:>5} {row[1]:>8} {row[2]:>8} {row[3]:>9} {row[4]:>6} {row[5]:>7.2f} {row[6]:>4}",
                    flush=True,
                )
    good = sum(right(row, launchers) for row in rows)
    times = [float(str(row[5])) for row in rows]
    print(f"{good} of {len(rows)} rounds right; {launchers} launchers; median {statistics.median(times):.2f} s a round")
    return 0 if good == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
