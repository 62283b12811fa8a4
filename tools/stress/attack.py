"""Attacks from outside on hosts of both kinds, bounded in time. ``python tools/stress/attack.py --help``.

Each attack is one kind of thing that other programs, people and machines do to a state directory, its locks, its files,
its processes or its port. What must hold after each: one sidecar, no foreign file or process touched, hosts that go on
or say what to do, nothing left. The sidecar is a stand-in that starts at once (``--real``: the real one).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from host_api import HostConfig, current, status
from host_api.protocol.lock import FileLock, held
from tests.support import programs
from tests.support.attacks import ANSWERS, TRAPS, bundle, fill, stranger, swap, victim_in, whole
from tests.support.programs import Holder, Program, lives, record, wait_for

ENV = {"FAULT_MODE": "honest"}


@dataclass
class Scene:
    """One attack's place: a folder, the program attacked, one of the other language, a source of chance."""

    folder: Path
    a: Program
    b: Program
    rng: random.Random
    sidecar: list[str]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def hold(self, *words: str, program: Program | None = None, state: Path | None = None) -> Holder:
        holder = (program or self.a).hold(state or self.state, "--supervise", *words, sidecar=self.sidecar, **ENV)
        assert holder.first["ok"], holder.first
        return holder

    def ensure(self, *words: str, program: Program | None = None, state: Path | None = None) -> dict[str, object]:
        return (program or self.b).run("ensure", state or self.state, *words, sidecar=self.sidecar, **ENV)

    def attached(self, *words: str) -> None:
        answer = self.ensure(*words)
        assert answer["ok"], answer
        assert len(programs.sidecars(self.state)) == 1

    def kill(self) -> None:
        found = record(self.state)
        assert found is not None
        os.kill(found.pid, signal.SIGKILL)


def a_stranger_on_the_port(s: Scene) -> None:
    holder = s.hold("--grace-time", "20")
    dead = record(s.state)
    assert dead is not None
    echo = whole(json.dumps({"instance_id": dead.instance_id, "status": "ready"}).encode())
    holder.kill()
    s.kill()
    wait_for(lambda: not held(s.state / "sidecar.lock"))
    with stranger([echo, *map(whole, s.rng.sample(list(ANSWERS.values()), 3))], dead.port):
        assert current(HostConfig(state_dir=s.state)) is None
        assert status(HostConfig(state_dir=s.state)).state == "stopped"
        s.attached("--grace-time", "1")


def no_descriptors(s: Scene) -> None:
    holder = s.hold("--grace-time", "20")
    limits = resource.prlimit(holder.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(holder.process.pid, resource.RLIMIT_NOFILE, (s.rng.randrange(3, 6), limits[1]))
    s.kill()
    time.sleep(1.5)
    resource.prlimit(holder.process.pid, resource.RLIMIT_NOFILE, limits)
    holder.event("restarted")
    s.attached()
    holder.let_go()


def a_full_disk(s: Scene) -> None:
    disk = s.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(disk)], check=True)
    try:
        state = disk / "state"
        holder = s.hold("--grace-time", "20", state=state)
        ballast = fill(disk)
        os.kill(holder.first["connection"]["pid"], signal.SIGKILL)
        assert "disk is full" in holder.event("failed")["detail"]
        assert s.ensure(state=state)["ok"] is False
        ballast.unlink()
        holder.event("restarted")
        assert s.b.run("stop", state, "--force")["stopped"]
        holder.let_go()
        wait_for(lambda: not held(state / "sidecar.lock"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def a_lost_directory(s: Scene) -> None:
    holder = s.hold("--grace-time", "2")
    first = record(s.state)
    assert first is not None
    if s.rng.random() < 0.5:
        s.state.rename(s.folder / "moved")
    else:
        for path in sorted(s.state.rglob("*"), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        with contextlib.suppress(OSError):
            s.state.rmdir()
    wait_for(lambda: (found := record(s.state)) is not None and found.instance_id != first.instance_id, 40)
    wait_for(lambda: not lives(first), 20, "the end of the first")
    s.attached()
    holder.let_go()


def hosts_lock_goes(s: Scene) -> None:
    holder = s.hold("--grace-time", "4")
    found = record(s.state)
    (s.state / "hosts.lock").unlink()
    wait_for(lambda: (s.state / "hosts.lock").exists() and s.b.run("inspect", s.state)["hosts"] == "held")
    assert record(s.state) == found
    s.attached()
    holder.let_go()


def a_trap(s: Scene) -> None:
    victim = victim_in(s.folder)
    s.state.mkdir(mode=0o700)
    name = s.rng.choice(list(TRAPS))
    make, code = TRAPS[name]
    make(s.state, victim)
    answer = s.ensure("--timeout", "20", "--grace-time", "0.2", program=s.a)
    assert bool(answer["ok"]) is (not code), (name, answer)
    assert {path.read_text() for path in victim.iterdir()} == {"precious\n"}, name


def looking_changes_nothing(s: Scene) -> None:
    mode = s.rng.choice((0o755, 0o700, 0o750))
    s.state.mkdir(mode=mode)
    before = s.state.stat()
    s.a.run("inspect", s.state)
    words = [sys.executable, "-m", "host_api.cli", "status", "--state-dir", str(s.state)]
    assert subprocess.run(words, check=False, cwd=programs.ROOT, stdout=subprocess.DEVNULL).returncode == 1
    assert list(s.state.iterdir()) == []
    assert (s.state.stat().st_mode, s.state.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def a_relative_or_odd_path(s: Scene) -> None:
    name = s.rng.choice(("a b", "ü\n1", "x" * 120, "-dash", "$HOME"))
    place = s.folder / name
    relative = Path(os.path.relpath(place, programs.ROOT))
    holder = s.hold("--grace-time", "0.4", state=relative)
    assert s.ensure(state=place)["connection"] == holder.first["connection"] | {"how": "attached"}
    holder.let_go()
    wait_for(lambda: not held(place / "sidecar.lock"), 20)


def a_shared_hold_on_the_lock(s: Scene) -> None:
    s.state.mkdir(mode=0o700)
    tester = FileLock(s.state / "sidecar.lock")
    assert tester.try_shared()
    answer = s.ensure("--timeout", "30", program=s.a)
    assert answer["ok"] is False
    assert "shared hold" in str(answer["error"]), answer
    assert json.loads((s.state / "restarts.json").read_text())["attempt"] <= 8
    tester.close()
    s.attached("--grace-time", "1")


def stopped_for_a_moment(s: Scene) -> None:
    holder = s.hold("--grace-time", "20")
    found = record(s.state)
    assert found is not None
    os.kill(found.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(found.pid, signal.SIGCONT)
    s.attached()
    assert record(s.state) == found, "three seconds of silence are not a hung process"
    holder.let_go()


def a_stopped_host(s: Scene) -> None:
    stopped, other = s.hold("--grace-time", "20"), s.hold("--grace-time", "20", program=s.b)
    os.kill(stopped.process.pid, signal.SIGSTOP)
    s.kill()
    other.event("restarted")
    os.kill(stopped.process.pid, signal.SIGCONT)
    stopped.event("restarted")
    s.attached()
    stopped.let_go()
    other.let_go()


def many_killed_at_once(s: Scene) -> None:
    kinds = [s.a, s.b] * 8
    holders = [kind.start("hold", s.state, "--grace-time", "1", sidecar=s.sidecar, **ENV) for kind in kinds]
    for holder in holders:
        holder.first = holder.line(90)
        assert holder.first["ok"], holder.first
    assert len({h.first["connection"]["instance_id"] for h in holders}) == 1
    for holder in holders:
        holder.process.kill()
    for holder in holders:
        holder.kill()
    wait_for(lambda: not held(s.state / "sidecar.lock"), 20, "leaving after all were killed")


def a_starved_machine(s: Scene) -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while 1: pass"]) for _ in range(6)]
    try:
        holders = [
            (s.a if n % 2 else s.b).start("hold", s.state, "--grace-time", "1", sidecar=s.sidecar, **ENV)
            for n in range(8)
        ]
        answers = [holder.line(90) for holder in holders]
        assert all(answer["ok"] for answer in answers), answers
        assert len({a["connection"]["instance_id"] for a in answers}) == 1
        time.sleep(4)
        assert len(programs.sidecars(s.state)) == 1
        for holder in holders:
            holder.let_go()
    finally:
        for process in busy:
            process.kill()
            process.wait()
    wait_for(lambda: not held(s.state / "sidecar.lock"), 20, "leaving after the last host")


def garbage_everywhere(s: Scene) -> None:
    holder = s.hold("--grace-time", "20", "--model-dir", "/m")
    for name in ("sidecar.pid", "restarts.json", "hosts.lock", "launch.lock", "sidecar.lock"):
        (s.state / name).write_bytes(s.rng.choice((b"", b"[" * 9999, s.rng.randbytes(300), b'{"schema": 1}')))
    for path in (s.state / "folders").iterdir():
        path.write_bytes(b"[" * 99999)
    s.attached()
    s.kill()
    (s.state / "sidecar.pid").write_bytes(b"1\n{}")
    holder.event("restarted")
    s.attached()
    holder.let_go()


def an_update(s: Scene) -> None:
    command = bundle(s.folder / "app", "1")
    quick = ("--grace-time", "2", "--backoff-base", "0.05")
    app = s.a.hold(s.state, *quick, sidecar=command, **ENV)
    other = s.b.hold(s.state, "--supervise", *quick, sidecar=command, **ENV)
    old = record(s.state)
    bundle(s.folder / "new", "2")
    swap(s.folder / "app", s.folder / "new")
    time.sleep(s.rng.random() * 3)
    app.kill()
    app = s.a.hold(s.state, *quick, sidecar=command, **ENV)
    assert app.first["ok"], app.first
    assert old is not None
    wait_for(lambda: (now := record(s.state)) is not None and now.build not in (None, old.build), 30)
    wait_for(lambda: not lives(old), 10)
    app.let_go()
    other.let_go()


def a_program_that_does_not_do(s: Scene) -> None:
    command = bundle(s.folder / "app", "1")
    args = ("--min-version", "9", "--grace-time", "20")
    pids = set()
    for program in (s.a, s.b, s.a):
        answer = program.run("ensure", s.state, *args, sidecar=command, **ENV)
        assert answer["error"]["code"] == "launch_failed", answer
        found = record(s.state)
        assert found is not None
        pids.add(found.pid)
    assert len(pids) == 1
    assert s.b.run("stop", s.state)["stopped"]


def another_pid_namespace(s: Scene) -> None:
    holder = s.hold("--grace-time", "20")
    before = (s.state / "sidecar.pid").read_bytes()
    inside = Program(s.a.name, ("unshare", "--pid", "--fork", "--mount-proc", *s.a.argv))
    guest = inside.hold(s.state, "--supervise", sidecar=s.sidecar, **ENV)
    assert guest.first["connection"]["how"] == "attached", guest.first
    time.sleep(3)
    assert (s.state / "sidecar.pid").read_bytes() == before, "a host in another namespace took the record"
    answer = inside.run("stop", s.state, "--force", "--timeout", "15", sidecar=s.sidecar)
    found = record(s.state)
    assert found is not None
    assert lives(found), answer
    guest.kill()
    s.attached()
    holder.let_go()


ATTACKS: tuple[Callable[[Scene], None], ...] = (
    a_stranger_on_the_port, no_descriptors, a_full_disk, a_lost_directory, hosts_lock_goes, a_trap,
    looking_changes_nothing, a_relative_or_odd_path, a_shared_hold_on_the_lock, stopped_for_a_moment, a_stopped_host,
    many_killed_at_once, a_starved_machine, garbage_everywhere, an_update, a_program_that_does_not_do,
    another_pid_namespace,
)  # fmt: skip


def one(attack: Callable[[Scene], None], scene: Scene) -> str:
    """Run it; what went wrong, or nothing."""
    try:
        with programs.swept(scene.state):
            attack(scene)
    except Exception as exc:
        traceback.print_exc()
        return f"{type(exc).__name__}: {exc}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=540, help="begin no attack after this time")
    parser.add_argument("--rounds", type=int, default=2, help="most rounds of all attacks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="attacks whose name has this in it")
    parser.add_argument("--real", action="store_true", help="the real sidecar in place of the stand-in")
    args = parser.parse_args()
    both = [programs.PYTHON, programs.rust()]
    rng = random.Random(args.seed)
    done: collections.Counter[str] = collections.Counter()
    bad: list[str] = []
    began = time.monotonic()
    work = [(n, attack, kind) for n in range(args.rounds) for attack in ATTACKS for kind in (0, 1)]
    for number, attack, kind in work:
        if time.monotonic() - began > args.seconds or args.only not in attack.__name__:
            continue
        with tempfile.TemporaryDirectory(prefix="attack-") as folder:
            command = programs.REAL if args.real else programs.FAULTY
            scene = Scene(Path(folder), both[kind], both[1 - kind], rng, list(command))
            started = time.monotonic()
            wrong = one(attack, scene)
            name = f"{attack.__name__.replace('_', ' ')} [{scene.a.name}]"
            done[attack.__name__] += 1
            verdict = "FAILED" if wrong else "held"
            print(f"{number + 1} {name:<42} {verdict:<6} {time.monotonic() - started:5.1f} s", flush=True)
            bad += [f"{name}: {wrong}"] if wrong else []
    print(f"seed {args.seed}: {done.total()} attacks of {len(done)} kinds, {len(bad)} did not hold, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    for line in bad:
        print(line)
    return 1 if bad or not done else 0


if __name__ == "__main__":
    sys.exit(main())
