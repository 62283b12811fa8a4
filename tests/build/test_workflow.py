"""The workflow's shell is read by shellcheck, and every program it calls is on the runner or made by a step before."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# On GitHub's macOS images (their README), or part of the system or the shell.
KNOWN = {"tar", "make", "security", "openssl", "base64", "xcrun", "codesign", "gh", "sw_vers", "uname", "rm", "printf"}
KNOWN |= {"test", "echo", "if", "then", "fi", "case", "esac", "[", "exit"}


def steps(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return every step of a workflow with the name of its job."""
    jobs = yaml.safe_load(path.read_text())["jobs"]
    return [(job, step) for job, body in jobs.items() for step in body["steps"]]


RUNS = [(path, job, step) for path in FILES for job, step in steps(path) if "run" in step]


@pytest.mark.parametrize(("path", "job", "step"), RUNS, ids=[str(s.get("name", s["run"]))[:30] for _, _, s in RUNS])
def test_a_step_is_good_shell_and_calls_what_is_there(path: Path, job: str, step: dict[str, Any]) -> None:
    script = step["run"]
    assert "${{" not in script, "an expression inside a script is an injection: pass it by env"
    checker = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([checker, "--shell=bash", "-"], input=script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    joined = script.replace("\\\n", " ")
    for line in joined.splitlines():
        for part in re.split(r"\|\|?|&&|;|\$\(", line):
            part = re.sub(r"^\s*\*?\w*\*?\)", "", part)  # the pattern of a case
            words = [w for w in re.sub(r'[A-Za-z_]+="[^"]*"', "", part).split() if not re.fullmatch(r"\w+=\S*", w)]
            if not words or words[0].startswith(('"', ")")):
                continue
            program = words[0]
            mine = program.startswith((".venv/", "mlx-sidecar/"))
            assert mine or program in KNOWN, f"{program} is not known to be on the runner"


ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
KEPT = Path.home() / ".cache" / "mlx-sidecar-dev" / "actionlint-1.7.12"


def test_actionlint_has_nothing_to_say() -> None:
    program = shutil.which("actionlint") or shutil.which(str(KEPT / "actionlint"))
    if program is None:
        pytest.skip(f"actionlint is not installed: GOBIN={KEPT} go install {ACTIONLINT}")
    checker = Path(sys.executable).with_name("shellcheck")
    command = [program, "-no-color", "-shellcheck", str(checker), *map(str, FILES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_secrets_are_named_on_one_page_and_the_keychain_goes_again(path: Path) -> None:
    text = path.read_text()
    page = (ROOT / "docs" / "contributing" / "shipping-macos.md").read_text()
    for name in set(re.findall(r"(?:secrets|vars)\.([A-Z_0-9]+)", text)):
        assert f"`{name}`" in page, name
    if "create-keychain" in text:
        (cleanup,) = [s for _, s in steps(path) if "delete-keychain" in s.get("run", "")]
        assert cleanup["if"] == "always()"
    assert "|| true" not in text
