"""What befalls a host, in both languages: full disks, no descriptors, lost folders, links, strangers, poor programs.

The sidecar is a stand-in that starts at once and leaves when the real one would; locks, processes, sockets and file
systems are real.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_api import HostConfig, HostError, LaunchFailed, LaunchSpec, SidecarHost, TimedOut, current
from host_api import status as look
from host_api.protocol.lock import held
from host_api.protocol.record import encode_record
from host_api.protocol.restarts import parse
from sidecar.process.lifecycle import Lifecycle
from tests.support.attacks import ANSWERS, JSON, TRAPS, bundle, fill, stranger, swap, victim_in, whole
from tests.support.programs import FAULTY, ROOT, Program, clean_env, lives, record, swept, wait_for

each = pytest.mark.parametrize("name", ["py", "rs"])
HONEST = {"FAULT_MODE": "honest"}


@pytest.fixture
def program(both: dict[str, Program], name: str) -> Program:
    return both[name]


# --- needs ------------------------------------------------------------------------------------------------
@each
def test_a_program_that_does_not_do_fails_at_once_and_is_not_replaced(
    program: Program, state: Path, tmp_path: Path
) -> None:
    """Its own program is older than the host needs: one start, a failure that says so, no killing at the next call."""
    command = bundle(tmp_path / "app", "1")
    args = ("--min-version", "0.2", "--grace-time", "30")
    first = program.run("ensure", state, *args, sidecar=command, **HONEST)
    assert first["error"]["code"] == "launch_failed"
    for words in (command[0], "0.1.0", "version 0.2", "install a newer one"):
        assert words in first["error"]["message"]
    started = record(state)
    assert started is not None
    again = program.run("ensure", state, *args, sidecar=command, **HONEST)
    assert again["error"]["code"] == "launch_failed"
    assert "install a newer one" in again["error"]["message"]
    assert lives(started), "the next call killed what it can't replace by anything better"
    assert program.run("stop", state)["stopped"]


@each
def test_a_sidecar_started_by_hand_is_neither_replaced_nor_stopped(program: Program, state: Path) -> None:
    by_hand = subprocess.Popen([*FAULTY, "serve", "--state-dir", str(state)], env=clean_env())
    try:
        wait_for(lambda: record(state))
        refused = program.run("ensure", state, "--min-version", "9", sidecar=FAULTY)
        assert refused["error"]["code"] == "conflict"
        assert "started by hand" in refused["error"]["message"]
        assert "stop it there" in refused["error"]["message"]
        assert program.run("stop", state)["error"]["code"] == "in_use"
        assert by_hand.poll() is None
        assert program.run("ensure", state)["connection"]["how"] == "attached"
    finally:
        by_hand.kill()
        by_hand.wait()


# --- supervision ends with its host alone ---------------------------------------------------------------------
@each
def test_a_host_without_descriptors_goes_on_when_it_has_some(program: Program, state: Path) -> None:
    holder = program.hold(state, "--supervise", "--grace-time", "30", sidecar=FAULTY, **HONEST)
    pid, first = holder.process.pid, holder.first["connection"]
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(first["pid"], signal.SIGKILL)
    assert "too many open files" in holder.event("failed")["detail"]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    restarted = holder.event("restarted")["connection"]
    assert restarted["instance_id"] != first["instance_id"]
    assert program.run("ensure", state)["connection"]["instance_id"] == restarted["instance_id"]
    assert program.run("stop", state, "--force")["stopped"]
    holder.let_go()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB. Needs the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(place)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@each
def test_a_sidecar_killed_on_a_full_disk_is_restarted_when_there_is_room(program: Program, small_disk: Path) -> None:
    state = small_disk / "state"
    holder = program.hold(state, "--supervise", "--grace-time", "30", sidecar=FAULTY, **HONEST)
    first = holder.first["connection"]
    ballast = fill(small_disk)
    os.kill(first["pid"], signal.SIGKILL)
    assert "disk is full; free some space" in holder.event("failed")["detail"]
    full = program.run("ensure", state, sidecar=FAULTY, **HONEST)
    assert full["error"]["code"] == "state_dir"
    assert "disk is full" in full["error"]["message"]
    ballast.unlink()
    assert holder.event("restarted")["connection"]["instance_id"] != first["instance_id"]
    assert program.run("stop", state, "--force")["stopped"]
    holder.let_go()
    wait_for(lambda: not held(state / "sidecar.lock"))


@pytest.mark.parametrize("how", ["moved", "emptied"])
@each
def test_a_lost_directory_is_noticed_and_a_sidecar_runs_in_the_new_one(program: Program, state: Path, how: str) -> None:
    """A folder that stays without its files looks as after a clean end, but for the lock that nobody unlinks."""
    holder = program.hold(state, "--supervise", "--grace-time", "2", sidecar=FAULTY, **HONEST)
    first = record(state)
    assert first is not None
    if how == "moved":
        state.rename(state.with_name("moved"))
    else:
        for path in [*state.glob("*.*"), state / "logs" / "launch.log"]:
            path.unlink()
    assert holder.event("crashed")["detail"] == "moved"
    assert holder.event("restarted")["connection"]["instance_id"] != first.instance_id
    wait_for(lambda: not lives(first), 10, "the end of the sidecar in the moved directory")
    assert program.run("ensure", state)["connection"]["how"] == "attached"
    holder.let_go()


@each
def test_a_removed_hosts_lock_is_taken_anew(program: Program, state: Path) -> None:
    holder = program.hold(state, "--supervise", "--grace-time", "3", sidecar=FAULTY, **HONEST)
    found = record(state)
    assert found is not None
    (state / "hosts.lock").unlink()
    wait_for(lambda: (state / "hosts.lock").exists() and program.run("inspect", state)["hosts"] == "held", 10)
    assert lives(found)
    assert record(state) == found
    holder.let_go()


@each
def test_hosts_lock_that_is_a_device_does_not_keep_the_sidecar_for_ever(program: Program, state: Path) -> None:
    holder = program.hold(state, "--grace-time", "0.4", sidecar=FAULTY, **HONEST)
    found = record(state)
    assert found is not None
    (state / "hosts.lock").unlink()
    (state / "hosts.lock").symlink_to("/dev/null")
    holder.kill()
    wait_for(lambda: not lives(found), 10, "leaving although hosts.lock can't be opened")


def test_a_fork_amid_a_restart_has_a_host_of_its_own(state: Path) -> None:
    """The watcher holds the mutex for as long as a restart takes; a child's copy of it stays locked for ever."""
    launch = LaunchSpec(command=tuple(FAULTY), port=0, grace_time=5, env={"PYTHONPATH": str(ROOT), **HONEST})
    host = SidecarHost(HostConfig(state_dir=state, launch=launch, timeout=20))
    mine = host.ensure_running()
    session = host._session
    assert session is not None
    taken, done = threading.Event(), threading.Event()

    def restart() -> None:
        with session.mutex:
            taken.set()
            done.wait(30)

    thread = threading.Thread(target=restart)
    thread.start()
    taken.wait(10)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            theirs = host.ensure_running()
            fresh = host._session
            assert fresh is not None
            words = (
                f"{theirs.instance_id} {theirs.how} {fresh.manager.me.pid == os.getpid()} {host.connection == theirs}"
            )
            host.release()
            os.write(writer, words.encode())
        os._exit(0)
    try:
        os.close(writer)
        assert select.select([reader], [], [], 15)[0], "the child waits for a mutex that nobody will let go of"
        assert os.read(reader, 1000).decode() == f"{mine.instance_id} attached True True"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        done.set()
        thread.join()
        host.stop(force=True)
        host.release()


@each
def test_status_and_inspect_leave_no_trace(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    assert program.run("inspect", folder)["lock"] == "free"
    assert program.run("inspect", folder / "none")["lock"] == "free"
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o755


# --- links --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("trap", list(TRAPS))
@each
def test_nothing_under_the_directory_is_reached_by_a_link(
    program: Program, state: Path, tmp_path: Path, trap: str
) -> None:
    victim = victim_in(tmp_path)
    state.mkdir(mode=0o700)
    make, code = TRAPS[trap]
    make(state, victim)
    answer = program.run("ensure", state, "--timeout", "20", "--grace-time", "0.2", sidecar=FAULTY, **HONEST)
    if code:
        assert answer["error"]["code"] == code, answer
        assert "a link or a special file is in the way; remove it" in answer["error"]["message"], answer
    else:
        assert answer["ok"], answer
        wait_for(lambda: not held(state / "sidecar.lock"))
    assert {path.read_text() for path in victim.iterdir()} == {"precious\n"}
    assert len(list(victim.iterdir())) == 3


@each
def test_a_linked_or_open_state_directory_is_refused(program: Program, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(real)
    refused = program.run("ensure", link)
    assert refused["error"]["code"] == "state_dir"
    assert "is a link; give the folder itself" in refused["error"]["message"]
    real.chmod(0o777)
    assert "chmod 700" in program.run("ensure", real)["error"]["message"]
    assert list(real.iterdir()) == []


# --- strangers ----------------------------------------------------------------------------------------------
@each
def test_whatever_a_stranger_answers_is_a_strangers_answer(program: Program, state: Path) -> None:
    answers = [whole(body) for body in ANSWERS.values()]
    answers += [b"SSH-2.0-OpenSSH_9.6\r\n", JSON + b"Content-Length: 99999999999999999999\r\n\r\n{}", b"\0" * 100_000]
    answers += [b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n{}"]
    life = Lifecycle.acquire(state, managed=True, grace_time=600, owner=None)
    try:
        with stranger(answers) as port:
            life.publish(host="127.0.0.1", port=port, version="0.1.0", token=None)
            seen = [program.run("inspect", state)["answer"] for _ in answers]
    finally:
        life.release()
    assert set(seen) <= {"other", "silent", "refused"}, seen
    assert seen[: len(ANSWERS)] == ["other"] * len(ANSWERS)


@each
def test_a_stranger_on_a_dead_sidecars_port(program: Program, state: Path) -> None:
    """It even gives the (public) instance id: a free lock means dead, whatever answers."""
    holder = program.hold(state, "--grace-time", "30", sidecar=FAULTY, **HONEST)
    dead = record(state)
    assert dead is not None
    os.kill(dead.pid, signal.SIGKILL)
    wait_for(lambda: not held(state / "sidecar.lock"))
    echo = whole(json.dumps({"instance_id": dead.instance_id, "status": "ready"}).encode())
    with stranger([echo], dead.port):
        assert (state / "sidecar.pid").read_bytes() == encode_record(dead)
        assert current(HostConfig(state_dir=state)) is None
        again = program.run("ensure", state, "--grace-time", "0.4", sidecar=FAULTY, **HONEST)
        assert again["connection"]["instance_id"] != dead.instance_id
        assert not again["connection"]["url"].endswith(f":{dead.port}")
    holder.let_go()


# --- hanging ------------------------------------------------------------------------------------------------
def test_a_hung_sidecar_counts_as_a_failure_and_is_given_up(both: dict[str, Program], tmp_path: Path) -> None:
    """A watching host ends one that was stopped by SIGSTOP after it had answered, and starts no more than it may.

    Once a replacement counted as nothing, so that a machine too slow for its model killed and loaded it for ever. Both
    languages at once, since a host takes 13 s to be sure.
    """
    limits = ("--grace-time", "30", "--hung-after", "0.5", "--term-wait", "0.3", "--give-up", "1")
    with contextlib.ExitStack() as stack:
        states = {name: stack.enter_context(swept(tmp_path / name)) for name in both}
        holders = {}
        for name, program in both.items():
            holders[name] = program.hold(states[name], "--supervise", *limits, sidecar=FAULTY, **HONEST)
            found = record(states[name])
            assert found is not None
            os.kill(found.pid, signal.SIGSTOP)
        for name, program in both.items():
            event = holders[name].event("failed", 60)
            assert "failed 1 times in a row, last: hung" in event["detail"], event
            shared = parse((states[name] / "restarts.json").read_bytes())
            assert (shared.failures, [one.why for one in shared.history], shared.attempt) == (1, ["hung"], 1), name
            assert not held(states[name] / "sidecar.lock"), "what hung is ended, and no other was started"
            again = program.run("ensure", states[name], "--grace-time", "0.4", sidecar=FAULTY, **HONEST)
            assert again["connection"]["how"] == "spawned", "a program that asks gets one"
            holders[name].let_go()


# --- updates ------------------------------------------------------------------------------------------------
@each
def test_an_update_under_a_running_sidecar_strands_nobody(
    program: Program, both: dict[str, Program], state: Path, tmp_path: Path
) -> None:
    """The app's bundle is swapped; other hosts stay attached; the app relaunches: the new program runs, for all."""
    command = bundle(tmp_path / "app", "1")
    quick = ("--grace-time", "2", "--backoff-base", "0.05")
    app = program.hold(state, *quick, sidecar=command, **HONEST)
    other = both["py"].hold(state, "--supervise", *quick, sidecar=command, **HONEST)
    old = record(state)
    assert old is not None
    assert old.program == command[0]
    bundle(tmp_path / "new", "2")
    swap(tmp_path / "app", tmp_path / "new")
    seen = look(HostConfig(state_dir=state))
    assert seen.state != "running" or (seen.build, seen.replaced) == (old.build, True)
    app.kill()  # the relaunch
    app = program.hold(state, *quick, sidecar=command, **HONEST)
    wait_for(lambda: (found := record(state)) is not None and found.build not in (None, old.build), 20)
    wait_for(lambda: not lives(old), 10, "the end of the old program")
    assert other.event("restarted", 20)["connection"]["instance_id"] != old.instance_id
    again = program.run("ensure", state, *quick, sidecar=command, **HONEST)
    assert again["connection"]["how"] == "attached"
    assert look(HostConfig(state_dir=state)).replaced is False
    app.let_go()
    other.let_go()


@each
def test_an_app_that_is_alone_replaces_its_old_build_at_once(program: Program, state: Path, tmp_path: Path) -> None:
    """Nothing ran while the files were swapped but the sidecar in its grace time."""
    command = bundle(tmp_path / "app", "1")
    args = ("--grace-time", "30")
    first = program.run("ensure", state, *args, sidecar=command, **HONEST)["connection"]
    bundle(tmp_path / "new", "2")
    swap(tmp_path / "app", tmp_path / "new")
    second = program.run("ensure", state, *args, sidecar=command, **HONEST)["connection"]
    assert second["instance_id"] != first["instance_id"]
    third = program.run("ensure", state, *args, sidecar=command, **HONEST)["connection"]
    assert third["instance_id"] == second["instance_id"]
    assert program.run("stop", state)["stopped"]


@each
def test_a_translocated_app_takes_its_sidecar_along_and_strands_nobody(
    program: Program, both: dict[str, Program], state: Path, tmp_path: Path
) -> None:
    """macOS runs a quarantined app from a read-only folder with a random name, a new one at each start.

    Two starts of one build share the sidecar. When the first one's folder goes with it, the other starts its own.
    """
    quick = ("--grace-time", "2", "--backoff-base", "0.05")
    apps = []
    for name in ("1B9A63F7", "C04E11D2"):
        apps.append(bundle(tmp_path / "AppTranslocation" / name / "d", "1"))
        Path(apps[-1][0]).chmod(0o555)
        Path(apps[-1][0]).parent.chmod(0o555)
    first = program.hold(state, *quick, sidecar=apps[0], **HONEST)
    other = both["py"].hold(state, "--supervise", *quick, sidecar=apps[1], **HONEST)
    shared = record(state)
    assert shared is not None
    assert (shared.program, other.first["connection"]["how"]) == (apps[0][0], "attached"), "the same build"
    first.let_go()
    Path(apps[0][0]).parent.chmod(0o755)
    shutil.rmtree(tmp_path / "AppTranslocation" / "1B9A63F7")  # what macOS mounted for it
    assert other.event("restarted", 20)["connection"]["instance_id"] != shared.instance_id
    after = record(state)
    assert after is not None
    assert after.program == apps[1][0]
    assert not lives(shared)
    other.let_go()
    wait_for(lambda: not lives(after), 20)
    Path(apps[1][0]).parent.chmod(0o755)


# --- the sidecar's environment -----------------------------------------------------------------------------
DUMP = """#!/bin/sh
{ pwd; ulimit -n; ls -l /proc/$$/fd; } > "$DUMP_TO/rest"
env > "$DUMP_TO/env"
printf '%s\\n' "$@" > "$DUMP_TO/args"
exec "PYTHON" -m tests.support.misbehaving "$@"
"""


@each
def test_the_sidecars_environment_is_its_own(program: Program, state: Path, tmp_path: Path) -> None:
    """An AppImage's host, started anywhere, with proxies and relative settings."""
    path = tmp_path / "mlx-sidecar"
    path.write_text(DUMP.replace("PYTHON", sys.executable))
    path.chmod(0o755)
    foreign = {
        "LD_LIBRARY_PATH": "/tmp/.mount_app/usr/lib",
        "LD_LIBRARY_PATH_ORIG": "/opt/own/lib",
        "APPDIR": "/tmp/.mount_app",
        "APPIMAGE": "/home/a/app.AppImage",
        "ARGV0": "app",
        "OWD": "/home/a",
        "PYTHONNOUSERSITE": "1",
        "_PYI_ARCHIVE_FILE": "/tmp/other",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "no_proxy": "corp.example",
        "MLX_SIDECAR_LOG_DIR": "some/logs",
    }
    answer = program.run("ensure", state, sidecar=[str(path)], DUMP_TO=str(tmp_path), **foreign, **HONEST)
    assert answer["ok"], answer
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert env["LD_LIBRARY_PATH"] == "/opt/own/lib", "what the AppImage put aside"
    left = {n for n in env if n.startswith(("APP", "ARGV0", "OWD", "PYTHON", "_PYI"))}
    assert left == {"PYTHONPATH"}, "what the test itself asks for"
    assert set(env["no_proxy"].split(",")) == {"corp.example", "127.0.0.1", "localhost", "::1"}
    assert {"127.0.0.1", "localhost", "::1"} <= set(env["NO_PROXY"].split(","))
    assert env["MLX_SIDECAR_LOG_DIR"] == str(ROOT / "some" / "logs"), "relative to the host's own folder"
    assert (tmp_path / "rest").read_text().splitlines()[0] == str(state), "no app's or disk image's folder is pinned"
    assert program.run("stop", state)["stopped"]


# --- letting go ---------------------------------------------------------------------------------------------
def test_release_does_not_wait_for_a_restart(state: Path) -> None:
    """The stand-in never publishes, so the start goes on for a minute; letting go ends the wait, not the minute."""
    launch = LaunchSpec(command=tuple(FAULTY), port=0, env={"PYTHONPATH": str(ROOT), "FAULT_MODE": "mute"})
    host = SidecarHost(HostConfig(state_dir=state, launch=launch))
    caught: list[Exception] = []

    def ensure() -> None:
        try:
            host.ensure_running()
        except (HostError, TimedOut, LaunchFailed) as exc:
            caught.append(exc)

    thread = threading.Thread(target=ensure)
    thread.start()
    wait_for(lambda: (state / "sidecar.lock").exists() and held(state / "sidecar.lock"))
    host.release()
    thread.join(5)
    assert not thread.is_alive()
    assert "let go" in str(caught[0])
    assert not held(state / "launch.lock")


def test_sigterm_ends_a_watch_amid_a_start(state: Path, tmp_path: Path) -> None:
    command = bundle(tmp_path / "app", "1")
    words = [sys.executable, "-m", "host_api.cli", "watch", "--state-dir", str(state), "--command", *command]
    env = clean_env(FAULT_MODE="mute")
    with subprocess.Popen([*words, "--port", "0"], cwd=ROOT, env=env, stdout=subprocess.DEVNULL) as watch:
        wait_for(lambda: (state / "sidecar.lock").exists() and held(state / "sidecar.lock"))
        watch.terminate()
        assert watch.wait(10) == 0
    assert not held(state / "launch.lock")
