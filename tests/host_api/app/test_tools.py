"""The tools a chat's model may call."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from host_api.app import child
from host_api.app.chat.tools import calculate, current_time, evaluate, worked_out


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("12*37", 444),
        ("2 ** 10", 1024),
        ("2^10", 1024),
        ("-7 // 2", -4),
        ("7 % 4", 3),
        ("sqrt(16) + abs(-3)", 7.0),
        ("max(1, 2, min(5, 4))", 4),
        ("round(pi, 2)", 3.14),
        ("6 ÷ 4 × 2", 3.0),
    ],
)
def test_the_calculator_calculates(expression: str, value: float) -> None:
    assert evaluate(expression) == value
    assert worked_out(expression) == str(value)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "1 / 0",
        "9 ** 9 ** 9",
        "(-8) ** 0.5",
        "__import__('os')",
        "().__class__",
        "open('x')",
        "[1] * 9",
        "'a' * 9",
        "lambda: 1",
        "sqrt(-1)",
        "True + 1",
        "1" * 600,
        "exp(10000)",
        "max()",
    ],
)
def test_the_calculator_refuses_all_else_in_words(expression: str) -> None:
    assert worked_out(expression).startswith("Error: ")


def test_the_time_has_a_zone_and_a_wrong_one_is_named() -> None:
    assert re.search(r"\d{4}, \d\d:\d\d:\d\d", current_time())
    assert "UTC+0000" in current_time("UTC")
    for wrong in ("Nowhere/Land", "../etc/passwd", "/etc/localtime", "Europe/"):
        assert "IANA" in current_time(wrong)


def test_an_installed_package_adds_tools_and_a_broken_one_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "plugged.py").write_text("def shout(text: str) -> str:\n    '''Shout.'''\n    return text.upper()\n")
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mlx_host.tools]\nshout = plugged:shout\nbroken = plugged:nothing\n")
    code = "from host_api.app.chat.tools import available; print([t.__name__ for t in available()])"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout.strip() == "['current_time', 'calculate', 'shout']"
    assert "broken" in found.stderr


@pytest.mark.parametrize(
    "expression",
    ["round(5, -10**9)", "round(5, -1000000000)", "round(5, 10**9)", "round(1.5, 1e9)", "9**9**9", "10**(10**8)"],
)
def test_no_expression_holds_the_interpreter(expression: str) -> None:
    assert worked_out(expression).startswith("Error: ")


def test_the_models_calculator_runs_in_a_process_that_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(calculate("12*37")) == "444"
    real = child.run
    monkeypatch.setattr(child, "run", lambda *_, limits: real(HOLDS, limits=child.Limits(seconds=1)))
    assert asyncio.run(calculate("1")) == "Error: it took longer than 1 s"


HOLDS = "tests.support.in_child:hold_the_interpreter"
