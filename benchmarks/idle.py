"""Wake-ups and CPU time of an idle host of each language and of an idle sidecar. ``python -m benchmarks.idle``.

A wake-up is a voluntary context switch of any thread, as the kernel counts them; the CPU time is user and system time.
The sidecar is the real one, without a model; ``--tree`` measures another checkout's Python host and sidecar.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.support import programs


def switches(pid: int) -> int:
    """Voluntary context switches of all threads so far."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            lines = (task / "status").read_text().splitlines()
            found += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))
    return found


def ticks(pid: int) -> float:
    """Seconds of CPU time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--settle", type=float, default=10, help="seconds before the measurement begins")
    parser.add_argument("--tree", type=Path, default=programs.ROOT, help="the checkout of the Python host and sidecar")
    args = parser.parse_args()
    kinds = [programs.PYTHON, programs.rust(release=True)]  # the Rust host is always this checkout's
    programs.ROOT = args.tree.resolve()
    os.environ["PYTHONPATH"] = str(programs.ROOT)
    with tempfile.TemporaryDirectory() as folder, programs.swept(Path(folder) / "state") as state:
        holders = {kind.name: kind.hold(state, "--supervise") for kind in kinds}
        pids = {f"host [{name}]": holder.process.pid for name, holder in holders.items()}
        pids["sidecar"] = holders["py"].first["connection"]["pid"]
        time.sleep(args.settle)
        before = {name: (switches(pid), ticks(pid)) for name, pid in pids.items()}
        time.sleep(args.seconds)
        sys.stdout.write(f"{'idle':<12} {'wake-ups a minute':>18} {'CPU ms a minute':>16}\n")
        for name, pid in pids.items():
            woke = (switches(pid) - before[name][0]) * 60 / args.seconds
            spent = (ticks(pid) - before[name][1]) * 60_000 / args.seconds
            sys.stdout.write(f"{name:<12} {woke:>18.0f} {spent:>16.0f}\n")
        for holder in holders.values():
            holder.let_go()
    return 0


if __name__ == "__main__":
    sys.exit(main())
