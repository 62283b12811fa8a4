"""Chaos: random kills and garbage in a state directory, round after round. ``python tools/stress/chaos.py --help``.

A few supervising hosts of both kinds share one directory. Each round does one thing to it and then demands: one
sidecar at most at every look, a working one again, the bystanders (a program on the preferred port, and one with the
recorded PID) untouched. At the end all let go, and nothing may be left after the grace time.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from host_api.protocol.lock import held
from host_api.protocol.probe import probe
from host_api.protocol.record import encode_record
from tests.support import programs
from tests.support.programs import Holder, Program

GRACE = 2.0
ACTIONS = ("sidecar", "launcher", "host", "garbage", "lock bytes", "dead and garbage", "planted PID", "stop")


class Lookout(threading.Thread):
    """Counts the sidecars that serve the directory, all the time.

    A starting one that loses the race for the lock isn't one yet: what counts is who has published and answers.
    """

    def __init__(self, state: Path) -> None:
        super().__init__(daemon=True)
        self.state = state
        self.most = 0
        self.looks = 0
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.05):
            serving = 0
            for pid in programs.sidecars(self.state):
                with contextlib.suppress(OSError):
                    tables = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
                    listening = {f[9] for f in map(str.split, tables) if f[3] == "0A"}
                    links = Path(f"/proc/{pid}/fd").iterdir()
                    serving += any(str(fd.readlink()) in {f"socket:[{i}]" for i in listening} for fd in links)
            self.most = max(self.most, serving)
            self.looks += 1

    def stop(self) -> None:
        self._end.set()
        self.join()


class Chaos:
    """One run."""

    def __init__(self, state: Path, rng: random.Random, *, release: bool, quick: bool) -> None:
        self.state = state
        self.rng = rng
        self.kinds = [programs.PYTHON, programs.rust(release=release)]
        self.sidecar = programs.FAULTY if quick else programs.REAL
        self.foreign = socket.create_server(("127.0.0.1", 0))
        self.args = ("--port", str(self.foreign.getsockname()[1]), "--grace-time", str(GRACE), "--backoff-base", "0")
        self.hosts: list[Holder] = []
        self.bystanders: list[subprocess.Popen[bytes]] = []
        self.counts: collections.Counter[str] = collections.Counter()

    def program(self) -> Program:
        return self.rng.choice(self.kinds)

    def host(self) -> None:
        """One more supervising host, attached."""
        holder = self.program().hold(self.state, "--supervise", *self.args, sidecar=self.sidecar)
        assert holder.first["ok"], holder.first
        self.hosts.append(holder)

    def kill_sidecar(self) -> None:
        found = programs.record(self.state)
        if found is not None and programs.lives(found):
            os.kill(found.pid, signal.SIGKILL)

    def act(self, action: str) -> None:
        rng, record = self.rng, self.state / "sidecar.pid"
        garbage = rng.randbytes(rng.choice((0, 1, 40, 4000)))
        if action == "sidecar":
            self.kill_sidecar()
        elif action == "launcher":  # killed somewhere between its start and its success
            self.kill_sidecar()
            launcher = self.program().start("hold", self.state, *self.args, sidecar=self.sidecar)
            time.sleep(rng.random() * 0.8)
            launcher.kill()
        elif action == "host":
            self.hosts.pop(rng.randrange(len(self.hosts))).kill()
        elif action == "garbage":
            record.write_bytes(garbage)
        elif action == "lock bytes":
            (self.state / rng.choice(("launch.lock", "sidecar.lock", "hosts.lock"))).write_bytes(garbage)
            (self.state / "restarts.json").write_bytes(garbage)
        elif action == "dead and garbage":
            self.kill_sidecar()
            with contextlib.suppress(OSError):
                record.write_bytes(garbage)
        elif action == "planted PID":
            found = programs.record(self.state)
            self.kill_sidecar()
            if found is not None:
                bystander = subprocess.Popen(["cat"], stdin=subprocess.PIPE)  # until it is killed, however long the run
                self.bystanders.append(bystander)
                text = encode_record(found).replace(str(found.pid).encode(), str(bystander.pid).encode())
                record.write_bytes(text)
        elif action == "stop":
            self.program().run("stop", self.state, "--force", *self.args, sidecar=self.sidecar)

    def works(self) -> bool:
        found = programs.record(self.state)
        return found is not None and held(self.state / "sidecar.lock") and probe(found, timeout=5) == "echo"

    def round(self, number: int) -> str:
        while len(self.hosts) < 3:
            self.host()
        action = ACTIONS[number % len(ACTIONS)] if number < len(ACTIONS) else self.rng.choice(ACTIONS)
        self.act(action)
        self.counts[action] += 1
        if action == "stop":  # a clean end: nobody starts it again until someone asks
            for holder in self.hosts:
                holder.kill()
            self.hosts.clear()
            self.host()
        answer = self.program().run("ensure", self.state, *self.args, sidecar=self.sidecar)
        assert answer["ok"], (action, answer)
        programs.wait_for(self.works, 60, f"recovery from {action!r}")
        for bystander in self.bystanders:
            assert bystander.poll() is None, f"a foreign process was ended by {action!r}"
        assert self.foreign.fileno() >= 0
        with socket.create_connection(self.foreign.getsockname()[:2], timeout=5):
            self.foreign.accept()[0].close()
        return action

    def end(self, *, quick: bool) -> int:
        """All hosts go; returns how many sidecars are left after the grace time."""
        for holder in self.hosts:
            holder.kill()
        end = time.monotonic() + GRACE + 20
        while not quick and programs.sidecars(self.state) and time.monotonic() < end:
            time.sleep(0.05)
        for bystander in self.bystanders:
            bystander.kill()
            bystander.wait()
        self.foreign.close()
        return 0 if quick else len(programs.sidecars(self.state))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no round after this time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a stand-in for the sidecar that starts at once")
    parser.add_argument("--debug", action="store_true", help="the debug build of the Rust program")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through the clean-up below
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, programs.swept(Path(folder) / "state") as state:
        chaos = Chaos(state, random.Random(args.seed), release=not args.debug, quick=args.quick)
        lookout = Lookout(state)
        lookout.start()
        bad, complete = "", False
        longest: dict[str, float] = {}
        done = 0
        limit = time.monotonic() + args.seconds
        try:
            for number in range(args.rounds):
                if time.monotonic() > limit:
                    break
                began = time.monotonic()
                action = chaos.round(number)
                longest[action] = max(longest.get(action, 0.0), time.monotonic() - began)
                done += 1
                if done % 20 == 0:
                    print(f"{done} rounds", flush=True)
            complete = True
        except AssertionError as exc:
            bad = f"round {done + 1}: {exc}"
        finally:
            left = chaos.end(quick=args.quick or not complete)
            lookout.stop()
        print(f"{'what was done':<18} {'rounds':>6} {'longest s':>9}")
        for action in ACTIONS:
            print(f"{action:<18} {chaos.counts[action]:>6} {longest.get(action, 0):>9.2f}")
        print(
            f"seed {args.seed}: {done} of {args.rounds} rounds recovered; most sidecars serving at any of "
            f"{lookout.looks} looks: {lookout.most}; left after the grace time: {left}; "
            f"{len(chaos.bystanders)} planted PIDs and the program on the port untouched"
        )
        if bad:
            print(bad)
        return 0 if not bad and lookout.most <= 1 and left == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
