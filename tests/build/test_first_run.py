"""The script for the person with the Mac: it goes on after a failure, ends what hangs, and says what was seen."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tools.macos import first_run
from tools.macos.first_run import STEPS, Step

ROOT = Path(__file__).resolve().parents[2]


def test_each_step_calls_what_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for step in STEPS:
        commands = f"{step.mac or ''}\n{step.linux or ''}"
        for target in re.findall(r"make (?:-s )?([a-z-]+)", commands):
            assert re.search(rf"^{target}:|^[a-z -]*\b{target}\b[a-z -]*:", makefile, re.MULTILINE), target
        for module in re.findall(r"-m ([\w.]+)", commands):
            assert importlib.util.find_spec(module), module
        for path in re.findall(r"build/[\w.]+", commands):
            assert (ROOT / path).exists(), path
        assert step.mac, f"{step.name} sees nothing on a Mac"
        assert step.linux or step.why, f"{step.name} must say why Linux skips it"


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds; one that nobody has waited for yet has ended too."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_a_failure_is_written_down_and_the_next_step_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    steps = (
        Step("fails", "ends with 3", "exit 3"),
        Step("lies", "exit 0 with the wrong words", "echo zeros", expect="^equal"),
        Step(
            "warns",
            "right words and a bad one",
            "echo Paris; echo Metallib",
            "echo Paris; echo Metallib",
            forbid="metallib",
        ),
        Step("hangs", "longer than it may", f"sleep 60 & echo $! > {started}; wait", limit=1),
        Step("elsewhere", "on a Mac alone", "true", None, why="no such thing here"),
        Step("passes", "says what it should", f"echo equal {Path.home()}/x", expect="^equal"),
    )
    monkeypatch.setattr(first_run, "STEPS", steps)
    path = tmp_path / "report.md"
    said: list[str] = []
    assert first_run.main(["--report", str(path)], said.append) == 1
    report = path.read_text()
    for line in (
        r"\| fails \|.*FAILED: exit status 3",
        r"\| lies \|.*FAILED: nothing in the output matches",
        r"\| warns \|.*FAILED: the output has 'Metallib'",
        r"\| hangs \|.*FAILED: not done after 1 s",
        r"\| elsewhere \|.*" + ("passed" if first_run.MAC else "skipped: no such thing here"),
        r"\| passes \|.*passed",
    ):
        assert re.search(line, report), (line, report)
    assert "4 of 6 steps failed" in report
    assert str(Path.home()) not in report, "a report that is sent around names nobody"
    assert gone(int(started.read_text())), "what hung was ended with what it had started"


def test_steps_are_chosen_by_name_and_a_wrong_name_is_told() -> None:
    assert [s.name for s in first_run.chosen("starter,machine", "")] == ["machine", "starter"]
    assert "qwen" not in {s.name for s in first_run.chosen("", "qwen")}
    with pytest.raises(SystemExit, match="there is no step starer; the steps are: machine, "):
        first_run.chosen("starer", "")


def test_the_script_runs_before_anything_is_set_up(tmp_path: Path) -> None:
    report = tmp_path / "r.md"
    command = [str(ROOT / "tools/macos/first_run.sh"), "--only", "machine", "--report", str(report)]
    env = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| machine |" in report.read_text()
    assert ("Not a Mac" in report.read_text()) is not first_run.MAC
