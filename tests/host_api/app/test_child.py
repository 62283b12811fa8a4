"""Work in a child process: plain data in and out, and limits that hold whatever the work does."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_api.app import child
from host_api.app.child import ChildFailure, ChildRefusal, Limits
from tests.support.servers import wait_for

WORK = "tests.support.in_child"
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda k: k != "$bytes"), inner),
    max_leaves=12,
)


def run(name: str, *args: Any, **limits: Any) -> Any:
    return child.run(f"{WORK}:{name}", *args, limits=Limits(**limits))


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except OSError:
        return False


@given(PLAIN)
@settings(max_examples=200)
def test_plain_data_comes_through_unchanged(value: Any) -> None:
    assert child.decode(child.encode(value)[8:]) == value


@given(st.binary(max_size=200))
def test_a_message_that_is_none_is_an_error_and_no_more(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        child.decode(data)


def test_other_data_is_refused() -> None:
    with pytest.raises(TypeError, match="Path is not plain data"):
        child.encode({"a": Path()})


def test_a_function_answers_and_what_it_prints_stays_out_of_the_way() -> None:
    assert run("echo", "é", 1.5, None, b"\0\xff", {"a": [b"x"]}) == ["é", 1.5, None, b"\0\xff", {"a": [b"x"]}]
    assert run("echo", b"x" * 5_000_000) == [b"x" * 5_000_000]


def test_values_of_a_generator_come_as_they_are_made() -> None:
    source = child.stream(f"{WORK}:pid_then_sleep")
    pid = next(source)
    assert alive(pid)
    source.close()  # type: ignore[attr-defined]
    assert not alive(pid)
    assert list(child.stream(f"{WORK}:count", 4)) == [0, 1, 2, 3]


def test_too_much_memory_ends_it() -> None:
    with pytest.raises(ChildFailure, match="200 MB") as slow:
        run("allocate", 2000, memory_mb=200)
    assert slow.value.reason == "memory"
    with pytest.raises(ChildFailure) as at_once:
        run("reserve", 16, memory_mb=200)
    assert at_once.value.reason == "memory"


@pytest.mark.parametrize("work", ["sleep", "hold_the_interpreter"])
def test_too_much_time_ends_it_whatever_it_does(work: str) -> None:
    args = (600,) if work == "sleep" else ()
    with pytest.raises(ChildFailure, match="longer than 1 s") as found:
        run(work, *args, seconds=1.0)
    assert found.value.reason == "time"


@pytest.mark.parametrize(("work", "args"), [("crash", ()), ("leave", (3,)), ("leave", (0,))])
def test_a_crash_is_told(work: str, args: tuple[int, ...]) -> None:
    with pytest.raises(ChildFailure, match="ended with status") as found:
        run(work, *args)
    assert found.value.reason == "crash"


def test_errors_keep_their_words() -> None:
    with pytest.raises(ChildRefusal) as refused:
        run("refuse")
    assert (refused.value.status_code, refused.value.code) == (422, "document_broken")
    with pytest.raises(ChildFailure, match="RuntimeError: broken inside"):
        run("fail")
    with pytest.raises(ChildFailure, match="AttributeError"):
        run("nothing_of_this_name")


def test_no_network_no_programs_and_no_files_outside_its_folder(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with pytest.raises(ChildFailure, match="PermissionError"):
            run("connect", port)
        if sys.platform == "linux" and os.geteuid() == 0:
            assert run("connect_past_python", port) != 0, "native code reaches the network"
    with pytest.raises(ChildFailure, match="PermissionError"):
        run("start")
    with pytest.raises(ChildFailure, match="PermissionError"):
        run("write", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    assert run("write", "inside.txt") == "x"
    with pytest.raises(ChildFailure, match="Too many open files"):
        run("open_files", 500)


def test_secrets_of_the_environment_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    found = run("environment")
    assert "sk-secret" not in str(found)
    assert not Path(found["HOME"]).exists(), "its folder is gone with it"


def test_it_ends_with_its_parent() -> None:
    import subprocess

    code = (
        "from host_api.app import child\n"
        f"source = child.stream('{WORK}:pid_then_sleep')\n"
        "print(next(source), flush=True)\n"
        "input()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait(10)
    wait_for(lambda: not alive(pid), 10)
    parent.stdout.close()
    parent.stdin.close()
