"""How long a host takes to let go, in both languages, whatever goes on. ``python -m benchmarks.release``.

``idle``: attached to a sidecar that runs, supervised. ``amid a restart``: the sidecar was killed, and the one that the
watcher starts in its place never comes up. ``beside a hung one``: the sidecar was stopped by SIGSTOP, so that a look at
it waits for its answer. Times in milliseconds: median and longest of the rounds. Goal: 200.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from host_api.protocol.lock import held
from tests.support import programs
from tests.support.programs import Holder, Program

STAND_IN = """#!/bin/sh
[ -e "{mute}" ] && export FAULT_MODE=mute
exec "{python}" -m tests.support.misbehaving "$@"
"""


def let_go(holder: Holder) -> float:
    """End a holder; returns the seconds that its ``release`` took, by its own clock."""
    assert holder.process.stdin is not None
    holder.process.stdin.close()
    seconds = float(holder.event("released", 120)["seconds"])
    holder.process.wait(30)
    holder.close()
    return seconds


def release(program: Program, situation: str) -> float:
    """Bring a host into ``situation`` and let it go."""
    with tempfile.TemporaryDirectory(prefix="release-") as name:
        folder = Path(name)
        path, mute = folder / "mlx-sidecar", folder / "mute"
        path.write_text(STAND_IN.format(mute=mute, python=sys.executable))
        path.chmod(0o755)
        with programs.swept(folder / "state") as state:
            words = ("--supervise", "--timed", "--grace-time", "1", "--hung-after", "60")
            holder = program.hold(state, *words, sidecar=[str(path)], FAULT_MODE="honest")
            pid = holder.first["connection"]["pid"]
            if situation == "amid a restart":
                mute.touch()
                os.kill(pid, signal.SIGKILL)
                holder.event("crashed")
                programs.wait_for(lambda: not programs.record(state) and held(state / "sidecar.lock"))
            elif situation == "beside a hung one":
                os.kill(pid, signal.SIGSTOP)
                time.sleep(5.5)  # the watcher asks each fifth second: it waits for an answer now
            else:
                time.sleep(0.3)
            return let_go(holder)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.release", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for program in (programs.PYTHON, programs.rust(release=True)):
        for situation in ("idle", "amid a restart", "beside a hung one"):
            times = [release(program, situation) * 1000 for _ in range(args.rounds)]
            rows.append((program.name, situation, statistics.median(times), max(times)))
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    sys.stdout.write(f"{'release() in ms':<24} {'median':>8} {'longest':>8}\n")
    for name, situation, median, longest in rows:
        sys.stdout.write(f"{name + ', ' + situation:<24} {median:>8.1f} {longest:>8.1f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
