"""The Debian package: unpacked into a folder, and started from there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from host_api.protocol.folders import lent
from tests.desktop.conftest import Desk

PACKAGE = os.environ.get("MLX_SIDECAR_DESKTOP_DEB", "")
MOST = 700  # MB


@pytest.mark.timeout(240)
@pytest.mark.skipif(not PACKAGE, reason="make desktop builds the package and says where it is")
def test_the_package_starts_from_where_it_was_unpacked(desk: Desk) -> None:
    assert Path(PACKAGE).stat().st_size < MOST * 1_000_000
    root = desk.home / "root"
    subprocess.run(["dpkg-deb", "--extract", PACKAGE, str(root)], check=True, timeout=120)
    program = root / "usr/bin/mlx-sidecar-desktop"
    with desk.app(program) as window:
        window.wait("the sidecar is ready", lambda: "Ready" in window.text("[data-testid=phase]"))
        window.wait("the model of the package", lambda: "starter" in window.text("header"))
        window.type("textarea", "What is the capital of France?")
        window.press("enter")
        window.wait("an answer", lambda: "Paris" in window.text("article.assistant"), 120)
        command = (Path("/proc") / str(desk.sidecars()[0]) / "cmdline").read_text().split("\0")
        assert command[0].startswith(str(root / "usr")), command
        assert "--data-dir" not in command, "the package is nothing that a user's models are put into"
        assert lent(desk.state_dir).data_dirs == (root / "usr/lib/mlx-sidecar-desktop/starter",)
        window.quit()
    desk.until("nothing is left", lambda: not desk.running(), 15)
