"""Python and Rust hosts over the same files, in all four pairings, with the real sidecar."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from host_api.protocol.identity import start_token
from host_api.protocol.lock import held
from host_api.protocol.record import encode_record
from tests.support.programs import FAULTY, Program, lives, record, sidecars, wait_for

PAIRS = [(a, b) for a in ("py", "rs") for b in ("py", "rs")]
pairs = pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{a}x{b}" for a, b in PAIRS])
each = pytest.mark.parametrize("name", ["py", "rs"])
QUICK = ("--grace-time", "0.4")


@pytest.fixture
def a(both: dict[str, Program], first: str) -> Program:
    return both[first]


@pytest.fixture
def b(both: dict[str, Program], second: str) -> Program:
    return both[second]


@pairs
def test_two_hosts_share_one_sidecar_and_it_leaves_after_the_last(a: Program, b: Program, state: Path) -> None:
    one = a.hold(state, *QUICK)
    two = b.hold(state, *QUICK)
    mine, theirs = one.first["connection"], two.first["connection"]
    assert (mine["how"], theirs["how"]) == ("spawned", "attached")
    assert {**mine, "how": ""} == {**theirs, "how": ""}
    seen = b.run("inspect", state)
    assert (seen["lock"], seen["record"], seen["identity"], seen["answer"], seen["hosts"], seen["decision"]) == (
        "held",
        "valid",
        "match",
        "echo",
        "held",
        "ATTACH",
    )
    refused = b.run("stop", state)
    assert refused["error"]["code"] == "in_use", refused
    found = record(state)
    assert found is not None
    one.kill()  # the launcher dies; the other keeps the sidecar
    time.sleep(1.0)
    assert lives(found)
    assert b.run("inspect", state)["decision"] == "ATTACH"
    two.let_go()
    wait_for(lambda: not lives(found), 10, "leaving after the grace time")
    assert not (state / "sidecar.pid").exists()
    assert {p.name for p in state.glob("*.lock")} == {"launch.lock", "sidecar.lock", "hosts.lock"}


@pairs
def test_a_killed_sidecar_is_seen_free_at_once_and_started_again(a: Program, b: Program, state: Path) -> None:
    one = a.hold(state, "--supervise", *QUICK)
    found = record(state)
    assert found is not None
    assert held(state / "sidecar.lock")
    os.kill(found.pid, signal.SIGKILL)
    wait_for(lambda: not held(state / "sidecar.lock") or record(state) != found, 10)
    again = b.run("ensure", state, *QUICK)["connection"]
    assert again["instance_id"] != found.instance_id
    assert one.event("restarted")["connection"]["instance_id"] == again["instance_id"]
    assert len(sidecars(state)) == 1
    one.let_go()


@pairs
def test_lock_of_one_is_seen_by_the_other(a: Program, b: Program, state: Path) -> None:
    """A holds the hosts lock: B sees it; SIGKILL of A: B sees it gone."""
    one = a.hold(state, "--grace-time", "30")
    assert b.run("inspect", state)["hosts"] == "held"
    one.kill()
    assert b.run("inspect", state)["hosts"] == "none"
    assert b.run("stop", state) == {"ok": True, "stopped": True}
    assert b.run("stop", state) == {"ok": True, "stopped": False}


@each
def test_recycled_pid_is_left_alone(both: dict[str, Program], name: str, state: Path) -> None:
    program = both[name]
    program.run("ensure", state, "--grace-time", "30")
    found = record(state)
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    wait_for(lambda: not held(state / "sidecar.lock"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        planted = encode_record(found).replace(str(found.pid).encode(), str(bystander.pid).encode())
        (state / "sidecar.pid").write_bytes(planted)
        assert program.run("inspect", state)["identity"] == "mismatch"
        assert program.run("stop", state, "--force") == {"ok": True, "stopped": False}
        again = program.run("ensure", state, "--grace-time", "30")
        assert again["connection"]["pid"] not in (bystander.pid, found.pid)
        assert bystander.poll() is None
        bystander.communicate(b"\n", timeout=10)
    assert program.run("stop", state)["stopped"]


GARBAGE = [b"", b"\0" * 100, b"1\n{}\n", b'7\n{"schema": 1']


@pytest.mark.parametrize(
    ("first", "second", "garbage"),
    [(*pair, text) for pair, text in zip(PAIRS, GARBAGE, strict=True)],
    ids=["pyxpy", "pyxrs", "rsxpy", "rsxrs"],
)
def test_truncated_or_garbage_record(a: Program, b: Program, state: Path, garbage: bytes) -> None:
    one = a.hold(state, *QUICK)
    found = record(state)
    assert found is not None
    (state / "sidecar.pid").write_bytes(garbage)
    # Alive: the sidecar puts it back, and nobody starts a second one.
    assert b.run("ensure", state)["connection"]["instance_id"] == found.instance_id
    os.kill(found.pid, signal.SIGKILL)
    wait_for(lambda: not held(state / "sidecar.lock"))
    (state / "sidecar.pid").write_bytes(garbage)
    # Dead: the lock is free, whatever the file says.
    assert b.run("ensure", state, *QUICK)["connection"]["how"] == "spawned"
    one.let_go()


@pairs
def test_versions_that_meet(a: Program, b: Program, state: Path) -> None:
    old = a.hold(state, "--grace-time", "30", sidecar=FAULTY, FAULT_VERSION="0.0.9")
    assert old.first["connection"]["version"] == "0.0.9"
    need = ("--min-version", "0.1.0")
    refused = b.run("ensure", state, *need)
    assert refused["error"]["code"] == "conflict"
    assert "0.0.9" in refused["error"]["message"]
    assert b.run("ensure", state, "--min-version", "0.0.8")["ok"]
    assert b.run("ensure", state, "--capability", "telepathy")["error"]["code"] == "conflict"
    old.let_go()
    newer = b.run("ensure", state, *need, *QUICK, sidecar=FAULTY, FAULT_VERSION="0.1.0")
    assert newer["connection"]["version"] == "0.1.0"
    # A newer sidecar is good enough for an older host.
    assert a.run("ensure", state, "--min-version", "0.0.9")["connection"]["how"] == "attached"
    assert b.run("stop", state)["stopped"]


@each
def test_unknown_schema_counts_as_held(both: dict[str, Program], name: str, state: Path) -> None:
    program = both[name]
    holder = program.hold(state, "--grace-time", "30", sidecar=FAULTY)
    found = record(state)
    assert found is not None
    document = json.loads((state / "sidecar.pid").read_text().splitlines()[1])
    (state / "sidecar.pid").write_text(f"{found.pid}\n{json.dumps(document | {'schema': 2})}\n")
    assert program.run("ensure", state)["error"]["code"] == "conflict"
    assert program.run("stop", state, "--force")["error"]["code"] == "conflict"
    assert lives(found)
    os.kill(found.pid, signal.SIGKILL)
    holder.let_go()


@pytest.mark.parametrize("mode", ["hang", "stubborn"])
@each
def test_a_hung_sidecar_is_replaced(
    both: dict[str, Program], name: str, state: Path, tmp_path: Path, mode: str
) -> None:
    program = both[name]
    sign = tmp_path / "hang"
    program.run("ensure", state, sidecar=FAULTY, FAULT_MODE=mode, FAULT_HANG_FILE=str(sign))
    found = record(state)
    assert found is not None
    sign.touch()
    args = ("--hung-after", "0.5", "--term-wait", "0.5", "--grace-time", "30")
    again = program.run("ensure", state, *args, sidecar=FAULTY)
    assert again["connection"]["instance_id"] != found.instance_id
    assert not lives(found)
    assert program.run("stop", state, "--force")["stopped"]


@each
def test_a_sidecar_that_never_publishes_is_not_signalled(both: dict[str, Program], name: str, state: Path) -> None:
    mute = subprocess.Popen([*FAULTY, "serve", "--state-dir", str(state)], env={**os.environ, "FAULT_MODE": "mute"})
    wait_for(lambda: (state / "sidecar.lock").exists() and held(state / "sidecar.lock"))
    answer = both[name].run("ensure", state, "--start-timeout", "0.3")
    assert answer["error"]["code"] == "conflict", answer
    assert mute.poll() is None
    mute.kill()
    mute.wait()


@pytest.mark.parametrize("code", [3, 78, 1])
@each
def test_failed_starts_come_with_the_last_lines(both: dict[str, Program], name: str, state: Path, code: int) -> None:
    args = ("--backoff-base", "0.01")
    answer = both[name].run("ensure", state, *args, sidecar=FAULTY, FAULT_MODE="exit", FAULT_EXIT=str(code))
    assert answer["error"]["code"] == "launch_failed"
    assert "last words" in answer["error"]["message"]
    assert f"exit status {code}" in answer["error"]["message"]
    attempts = json.loads((state / "restarts.json").read_text())["attempt"]
    assert attempts == (3 if code == 1 else 1)


@each
def test_a_foreign_program_on_the_port_is_left_alone(both: dict[str, Program], name: str, state: Path) -> None:
    program = both[name]
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = foreign.getsockname()[1]
        strict = program.run("ensure", state, "--port", str(port), "--strict-port")
        assert strict["error"]["code"] == "conflict"
        assert f"pid {os.getpid()}" in strict["error"]["message"]
        other = program.run("ensure", state, "--port", str(port), "--grace-time", "30")
        assert other["ok"], other
        assert not other["connection"]["url"].endswith(f":{port}")
        assert program.run("stop", state)["stopped"]


@pairs
def test_ownership_moves_when_the_launcher_dies(a: Program, b: Program, state: Path) -> None:
    one = a.hold(state, "--grace-time", "5", sidecar=FAULTY)
    two = b.hold(state, "--supervise", sidecar=FAULTY)
    one.kill()
    assert two.event("adopted")["connection"]["pid"] == one.first["connection"]["pid"]
    found = record(state)
    assert found is not None
    assert found.owner is not None
    assert found.owner.pid == two.process.pid
    assert found.owner.start_token == start_token(two.process.pid)
    two.let_go()
    os.kill(found.pid, signal.SIGKILL)


@each
def test_bad_state_directories(both: dict[str, Program], name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = both[name].run("ensure", tmp_path / "file" / "state")
    assert answer["error"]["code"] == "state_dir"
    assert "choose another folder" in answer["error"]["message"]


@each
def test_decide_speaks_json(both: dict[str, Program], name: str) -> None:
    rows = json.loads((Path(__file__).parent / "protocol" / "vectors" / "decide.json").read_text())
    lines = []
    for row in rows["rows"]:
        point = dict(zip(rows["columns"], row, strict=True))
        point.pop("decision")
        lines.append(json.dumps(point | {k: point[k] == "yes" for k in ("overdue", "port_blocked", "managed")}))
    done = subprocess.run(
        [*both[name].argv, "decide"], input="\n".join(lines), capture_output=True, text=True, timeout=60, check=True
    )
    assert [json.loads(line)["decision"] for line in done.stdout.splitlines()] == [row[-1] for row in rows["rows"]]


@each
def test_a_client_follows_the_sidecar_through_a_restart(both: dict[str, Program], name: str, state: Path) -> None:
    holder = both[name].requests(state, *QUICK)
    first = holder.first["connection"]["instance_id"]
    assert holder.get("/health")["body"]["instance_id"] == first
    assert holder.get("/v1/models")["status"] == 200, "the client sends the token"
    for _ in range(2):
        found = record(state)
        assert found is not None
        os.kill(found.pid, signal.SIGKILL)
        wait_for(lambda: not held(state / "sidecar.lock"), what="its death")
        assert holder.get("/v1/models")["status"] == 200
        after = holder.get("/health")["body"]["instance_id"]
        assert after not in (first, found.instance_id)
    assert len(sidecars(state)) == 1
    assert holder.let_go() == 0
