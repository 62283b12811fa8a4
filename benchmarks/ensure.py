"""What process control costs: ``python benchmarks/ensure.py``. Times in milliseconds, medians.

``warm``: ensure_running on a running sidecar, health check included, within one process. ``restart``: SIGKILL of the
sidecar until a supervising host has a new one that answers. ``cold``: ensure_running without a sidecar until it is
ready; ``spawn``: the sidecar alone, from spawn to an answer, for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from host_api import Backoff, HostConfig, LaunchSpec, SidecarHost
from host_api.protocol.lock import held
from host_api.protocol.probe import health_of
from tests.support import programs


def config(state: Path, program: Path | None = None) -> HostConfig:
    command = (str(program.resolve()),) if program else ()
    launch = LaunchSpec(command=command, port=0, grace_time=5, env={"PYTHONPATH": str(programs.ROOT)})
    return HostConfig(state_dir=state, launch=launch, backoff=Backoff(base=0.0))


def import_time(rounds: int) -> float:
    """Seconds of ``from host_api import SidecarHost`` in a fresh interpreter, median."""
    code = "import time; t = time.perf_counter(); from host_api import SidecarHost; print(time.perf_counter() - t)"
    run = [sys.executable, "-c", code]
    times = [float(subprocess.check_output(run, cwd=programs.ROOT)) for _ in range(2 * rounds)]
    return statistics.median(times)


def spawn_only(state: Path, program: Path | None = None) -> float:
    """Seconds from spawn to an answer without any host."""
    command = [*([str(program)] if program else programs.REAL), "serve", "--state-dir", str(state), "--port", "0"]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=programs.clean_env(), stderr=subprocess.DEVNULL, cwd=programs.ROOT)
    try:
        while True:
            found = programs.record(state)
            if found is not None:
                try:
                    health_of(found)
                    return time.perf_counter() - began
                except OSError:
                    pass
            time.sleep(0.002)
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="cold starts and restarts")
    parser.add_argument("--warm", type=int, default=300)
    parser.add_argument("--program", type=Path, help="a frozen sidecar in place of the one from source")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, float] = {"import of SidecarHost": import_time(args.rounds)}
    with tempfile.TemporaryDirectory(prefix="ensure-") as folder:
        with (
            programs.swept(Path(folder) / "a") as state,
            SidecarHost(config(state, args.program), supervise=False) as host,
        ):
            times = []
            for _ in range(args.warm):
                began = time.perf_counter()
                host.ensure_running()
                times.append(time.perf_counter() - began)
            figures["warm, Python"] = statistics.median(times)
            rust = programs.rust(release=True)
            lines = [rust.run("bench", state, "--rounds", str(args.warm))["median_s"]]
            figures["warm, Rust"] = float(lines[0])
            host.stop()
        restarts, deaths = [], []
        with programs.swept(Path(folder) / "b") as state, SidecarHost(config(state, args.program)) as host:
            for _ in range(args.rounds):
                events = host.events()
                connection = host.connection
                assert connection is not None
                os.kill(connection.pid, signal.SIGKILL)
                began = time.perf_counter()
                while held(state / "sidecar.lock"):
                    time.sleep(0.0005)
                deaths.append(time.perf_counter() - began)
                while next(events).kind != "restarted":
                    pass
                restarts.append(time.perf_counter() - began)
            host.stop(force=True)
        figures["SIGKILL to a free lock"] = statistics.median(deaths)
        figures["SIGKILL to serving again"] = statistics.median(restarts)
        cold, spawn = [], []
        for number in range(args.rounds):
            with programs.swept(Path(folder) / f"c{number}") as state:
                spawn.append(spawn_only(state, args.program))
                began = time.perf_counter()
                with SidecarHost(config(state, args.program), supervise=False) as host:
                    cold.append(time.perf_counter() - began)
                    host.stop()
        figures["spawn to an answer"] = statistics.median(spawn)
        figures["cold ensure_running"] = statistics.median(cold)
    figures = {name: round(seconds * 1000, 3) for name, seconds in figures.items()}
    if args.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        print(f"{name:<26} {value:>9.2f} ms")
    ratio = figures["cold ensure_running"] / figures["spawn to an answer"]
    print(f"cold ensure_running is {ratio:.2f} times a bare spawn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
