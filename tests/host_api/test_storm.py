"""Short forms of storm and chaos, with the real sidecar and a fixed seed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.programs import ROOT, Program, clean_env


@pytest.mark.parametrize(
    "words",
    [
        ("storm.py", "--rounds", "2", "--python", "4", "--rust", "4", "--debug"),
        ("chaos.py", "--rounds", "9", "--seed", "7", "--debug"),
    ],
    ids=["storm", "chaos"],
)
def test_short_form(both: dict[str, Program], words: tuple[str, ...]) -> None:
    assert both["rs"]  # built
    command = [sys.executable, str(ROOT / "tools" / "stress" / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT, env=clean_env(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
