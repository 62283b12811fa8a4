"""Every shell script is read by shellcheck, and the Makefile tells of every target that people use."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def scripts() -> list[Path]:
    """Return every tracked file that a shell runs."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in names.splitlines() if (ROOT / name).is_file()]
    return [p for p in paths if p.suffix == ".sh" or p.read_bytes()[:64].startswith((b"#!/bin/sh", b"#!/bin/bash"))]


@pytest.mark.parametrize("script", scripts(), ids=lambda p: str(p.relative_to(ROOT)))
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([program, script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_make_alone_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^  ([a-z-]+) +\S", done.stdout, re.MULTILINE)
    assert set(listed) == set(phony[1].split())
    assert {"run", "test", "help"} <= set(listed)


@pytest.mark.parametrize("target", ["run", "test", "lint", "freeze", "web", "test-desktop", "bench-table", "packages"])
def test_folders_with_spaces_are_one_word_to_make(target: str, tmp_path: Path) -> None:
    clone = tmp_path / "a clone of mine"
    clone.mkdir()
    shutil.copy(ROOT / "Makefile", clone)
    for needed in (
        "requirements/dev.txt",
        "requirements/uv.txt",
        "pyproject.toml",
        "sidecar/__init__.py",
        "tools/setup.sh",
    ):
        (clone / needed).parent.mkdir(exist_ok=True)
        (clone / needed).touch()
    command = ["make", "-n", target, f"CACHE={tmp_path}/a cache", f"PYTHON={tmp_path}/a python"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
    words = [w for line in done.stdout.splitlines() for w in shlex.split(line.removesuffix("\\").replace("$(", ""))]
    inside = [w for w in words if str(tmp_path) in w]
    assert inside
    assert [w for w in inside if not re.search(r"/a (clone of mine|cache|python)", w)] == []
