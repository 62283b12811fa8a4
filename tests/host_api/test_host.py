"""``SidecarHost`` and what comes with it, over the real sidecar."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host_api import (
    Event,
    HostConfig,
    HostError,
    InUse,
    LaunchFailed,
    LaunchSpec,
    SidecarHost,
    sidecar_lifespan,
    status,
)
from host_api.process import send
from host_api.protocol.lock import FileLock, held
from host_api.protocol.record import Owner
from host_api.protocol.state_dir import StateDirError, prepare, replace_file
from sidecar.process.lifecycle import Lifecycle, LockHeld
from tests.support.programs import FAULTY, ROOT, clean_env, lives, record, sidecars, wait_for


def config(state: Path, *, command: list[str] | None = None, **more: Any) -> HostConfig:
    env = {"PYTHONPATH": str(ROOT)}
    launch = LaunchSpec(command=tuple(command or ()), port=0, grace_time=0.4, env=env)
    return HostConfig(state_dir=state, launch=launch, **more)


@pytest.fixture
def host(state: Path) -> Iterator[SidecarHost]:
    with SidecarHost(config(state)) as one:
        yield one


def next_event(events: Iterator[Event], kind: str) -> Event:
    for event in events:
        assert event.kind != "failed", event
        if event.kind == kind:
            return event
    raise AssertionError("no more events")


def test_use_restart_and_client(host: SidecarHost, state: Path) -> None:
    connection = host.connection
    assert connection is not None
    assert connection.token
    assert connection.token not in repr(connection)
    assert host.ensure_running() is connection
    events = host.events()
    with connection.client() as client:
        assert client.get("/health").json()["instance_id"] == connection.instance_id
        assert client.get("/v1/models").status_code == 200
        os.kill(connection.pid, signal.SIGKILL)
        wait_for(lambda: gone(state, connection.instance_id))
        # The client's own request brings the sidecar back, or finds it already there.
        assert client.get("/v1/models").status_code == 200
        restarted = next_event(events, "restarted").connection if host.connection == connection else host.connection
        assert restarted is not None
        assert client.get("/health").json()["instance_id"] == restarted.instance_id != connection.instance_id
    assert len(sidecars(state)) == 1
    seen = host.status()
    assert seen.state == "running"
    assert seen.health is not None
    assert seen.owner is not None
    assert seen.owner["pid"] == os.getpid()
    host.release()
    wait_for(lambda: host.status().state == "stopped")
    with connection.client() as client, pytest.raises(HostError, match="ensure_running"):
        client.get("/health")


def gone(state: Path, instance_id: str) -> bool:
    """Whether that sidecar's lock is free or another's (a dying process may listen on after its PID is a zombie)."""
    found = record(state)
    return not held(state / "sidecar.lock") or (found is not None and found.instance_id != instance_id)


def lives_pid(pid: int) -> bool:
    from host_api.protocol.identity import start_token

    return start_token(pid) is not None


def test_async_lifespan_and_client(state: Path) -> None:
    class App:
        class state:  # noqa: N801
            sidecar: SidecarHost

    async def use() -> str:
        async with sidecar_lifespan(config(state))(App):
            connection = App.state.sidecar.connection
            assert connection is not None
            async with connection.async_client() as client:
                os.kill(connection.pid, signal.SIGKILL)
                await asyncio.to_thread(wait_for, lambda: gone(state, connection.instance_id))
                answer = await client.get("/health")
                assert answer.json()["instance_id"] != connection.instance_id
                return str(answer.json()["status"])

    assert asyncio.run(use()) == "ready"


def test_stop_is_clean_and_other_hosts_do_not_restart_it(state: Path) -> None:
    with SidecarHost(config(state)) as one, SidecarHost(config(state)) as two:
        events = two.events()
        with pytest.raises(InUse, match="force"):
            one.stop()
        assert one.stop(force=True)
        assert next_event(events, "stopped")
        assert two.connection is None
        assert not one.stop()
        assert one.ensure_running().instance_id
    assert json.loads((state / "restarts.json").read_text())["failures"] == 0


def test_permanent_failure_reaches_every_waiting_host_once(state: Path) -> None:
    failing = HostConfig(
        state_dir=state,
        launch=LaunchSpec(command=tuple(FAULTY), env={**clean_env(), "FAULT_MODE": "exit", "FAULT_EXIT": "78"}),
    )
    with pytest.raises(LaunchFailed, match="last words") as caught:
        SidecarHost(failing).ensure_running()
    assert caught.value.permanent
    assert caught.value.exit_code == 78
    assert not held(state / "hosts.lock")


def test_program_that_is_not_there(state: Path) -> None:
    with pytest.raises(HostError, match="check the configured command"):
        SidecarHost(config(state, command=["/nonexistent/mlx-sidecar"])).ensure_running()


def test_a_forked_worker_keeps_no_lock(host: SidecarHost, state: Path) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        os.close(reader)
        found = record(state)
        assert found is not None
        host.release()
        wait_for(lambda: not lives(found), 10, "leaving although a forked worker lives")
        assert lives_pid(pid)
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def test_record_is_put_back_and_a_removed_directory_ends_it(host: SidecarHost, state: Path) -> None:
    found = record(state)
    assert found is not None
    (state / "sidecar.pid").unlink()
    wait_for(lambda: record(state) == found)
    assert (state / "sidecar.pid").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700
    host.release()
    moved = state.with_name("moved")
    state.rename(moved)
    wait_for(lambda: not lives(found), 10, "leaving after the directory is gone")


def test_the_first_line_is_for_kill(host: SidecarHost, state: Path) -> None:
    connection = host.connection
    assert connection is not None
    host.release()
    subprocess.run(["sh", "-c", f'kill $(head -1 "{state}/sidecar.pid")'], check=True)
    wait_for(lambda: not lives_pid(connection.pid))
    assert not (state / "sidecar.pid").exists()


def test_signals_only_the_very_process(tmp_path: Path) -> None:
    files = prepare(tmp_path / "state")
    life = Lifecycle.acquire(files.root, managed=True, grace_time=1, owner=None)
    life.publish(host="127.0.0.1", port=1, version="1", token=None)
    found = record(files.root)
    assert found is not None
    with subprocess.Popen(["sleep", "60"]) as other:
        from dataclasses import replace

        assert not send(replace(found, pid=other.pid), signal.SIGKILL)
        assert other.poll() is None
        other.kill()
    assert not send(replace(found, pid=other.pid), signal.SIGKILL)
    life.release()


def test_lifecycle_holds_one_and_says_who(tmp_path: Path) -> None:
    owner = Owner(kind="python", pid=1, start_token="x")
    life = Lifecycle.acquire(tmp_path / "s", managed=True, grace_time=1, owner=owner)
    (tmp_path / "s" / ".sidecar.pid.1.sidecar.pid.tmp").write_text("half")
    life.publish(host="127.0.0.1", port=5, version="1", token=None)
    with pytest.raises(LockHeld, match=str(os.getpid())):
        Lifecycle.acquire(tmp_path / "s", managed=True, grace_time=1, owner=None)
    life.release()
    again = Lifecycle.acquire(tmp_path / "s", managed=False, grace_time=1, owner=None)
    assert again.instance_id != life.instance_id
    assert not list((tmp_path / "s").glob(".sidecar.pid*"))
    again.release()


def test_grace_time_begins_anew_with_every_host(tmp_path: Path) -> None:
    """Time is a fake clock's; the locks are real."""
    now = [0.0]
    life = Lifecycle.acquire(tmp_path, managed=True, grace_time=100, owner=None)

    async def scenario() -> str:
        watch = asyncio.create_task(life.watch(clock=lambda: now[0]))

        async def later(seconds: float) -> bool:
            now[0] += seconds
            await asyncio.sleep(1.3)
            return watch.done()

        lock = FileLock(tmp_path / "hosts.lock")
        assert not await later(99)
        assert lock.try_shared()
        assert not await later(1000)
        lock.unlock()
        assert not await later(1)
        assert not await later(98)
        assert lock.try_shared()  # a short visit between two looks
        lock.touch()
        lock.unlock()
        assert not await later(99)
        assert await later(101)
        assert not lock.try_shared()  # refused: it is leaving
        life.release()
        assert lock.try_shared()
        lock.close()
        return watch.result()

    assert "no host" in asyncio.run(scenario())


def test_not_managed_never_leaves_and_is_not_stopped_without_force(state: Path) -> None:
    command = [sys.executable, "-m", "sidecar.entry", "serve", "--state-dir", str(state), "--port", "0"]
    process = subprocess.Popen(command, env=clean_env(), stderr=subprocess.DEVNULL, cwd=ROOT)
    wait_for(lambda: status(config(state)).state == "running", 60)
    with SidecarHost(config(state)) as host:
        assert host.connection is not None
        assert host.connection.how == "attached"
        with pytest.raises(InUse, match="by hand"):
            host.stop()
        assert host.stop(force=True)
    assert process.wait(10) == 0


def test_full_disk_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateDirError, match="disk is full; free some space"):
        replace_file(tmp_path / "sidecar.pid", b"x")
    assert not list(tmp_path.iterdir())


def test_no_flock_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fcntl

    def unsupported(fd: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(StateDirError, match="no file locks"):
        Lifecycle.acquire(tmp_path, managed=True, grace_time=1, owner=None)


def test_locks_that_do_not_hold_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)
    with pytest.raises(StateDirError, match="doesn't keep file locks"):
        Lifecycle.acquire(tmp_path, managed=True, grace_time=1, owner=None)


def test_core_import_is_light() -> None:
    heavy = "'httpx', 'psutil', 'mlx', 'fastapi', 'uvicorn', 'pydantic', 'numpy'"
    code = f"import sys, host_api; print([m for m in ({heavy}) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_command_line(state: Path) -> None:
    def run(*words: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "host_api.cli", *words, "--state-dir", str(state), "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=90, cwd=ROOT, env=clean_env(), check=False
        )
        return done.returncode, json.loads(done.stdout)

    assert run("status")[1]["state"] == "stopped"
    code, answer = run("ensure", "--port", "0", "--grace-time", "20")
    assert (code, answer["connection"]["how"]) == (0, "spawned")
    assert run("status")[1]["health"]["status"] == "ready"
    command = [sys.executable, "-m", "host_api.cli", "watch", "--state-dir", str(state), "--json"]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=clean_env())
    assert watcher.stdout is not None
    assert json.loads(watcher.stdout.readline())["event"] == "ready"
    assert run("stop")[1]["error"]["code"] == "in_use"
    os.kill(answer["connection"]["pid"], signal.SIGKILL)
    assert json.loads(watcher.stdout.readline())["event"] == "crashed"
    assert json.loads(watcher.stdout.readline())["event"] == "restarted"
    assert run("stop", "--force") == (0, {"ok": True, "stopped": True})
    assert json.loads(watcher.stdout.readline())["event"] == "stopped"
    assert watcher.wait(10) == 0
    watcher.stdout.close()
    assert run("stop")[1]["stopped"] is False


def test_back_off_is_shared(state: Path) -> None:
    """Two crashes in a row: the second restart waits, whoever makes it."""
    from host_api.protocol.restarts import parse

    for expected in (0, 1, 2):
        with SidecarHost(config(state), supervise=False) as one:
            assert one.connection is not None
            assert parse((state / "restarts.json").read_bytes()).failures == expected
            os.kill(one.connection.pid, signal.SIGKILL)
            wait_for(lambda: not held(state / "sidecar.lock"))
    short = config(state, timeout=0.5)
    with pytest.raises(HostError, match="crashed 3 times in a row"):
        SidecarHost(short).ensure_running()
