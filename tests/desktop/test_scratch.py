"""What the README of the snippets makes of a fresh app: its package, unpacked and started."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.desktop.conftest import GRACE, Desk

PACKAGE = os.environ.get("MLX_SIDECAR_SCRATCH_DEB", "")


@pytest.mark.timeout(240)
@pytest.mark.skipif(not PACKAGE, reason="tools/desktop_scratch.sh builds it and says where it is")
def test_the_readme_makes_an_app_that_answers(desk: Desk, data_dir: Path) -> None:
    root = desk.home / "root"
    subprocess.run(["dpkg-deb", "--extract", PACKAGE, str(root)], check=True, timeout=120)
    desk.more["MLX_SIDECAR_DATA_DIR"] = str(data_dir)
    with desk.app(root / "usr/bin/my-app") as window:
        window.wait("the state", lambda: "running" in window.text("body"))
        window.wait("the answer", lambda: "Paris" in window.text("body"), 120)
        desk.shot("16-scratch")
        command = (Path("/proc") / str(desk.sidecars()[0]) / "cmdline").read_text().split("\0")
        assert command[0].startswith(str(root / "usr")), command
    desk.until("nothing is left", lambda: not desk.running(), GRACE + 15)
