"""The tray's menu, clicked as a panel clicks: over D-Bus."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.desktop.conftest import PROGRAM, Desk
from tests.support import desktop_page
from tests.support.neighbour import Neighbour
from tests.support.tray import tray


@pytest.mark.timeout(120)
def test_the_tray_hides_shows_restarts_and_quits(desk: Desk, bus: str, neighbour: Neighbour) -> None:
    desk.more["DBUS_SESSION_BUS_ADDRESS"] = bus
    with tray(bus) as panel, desk.app() as window:
        desktop_page.ready(window)
        menu = panel.menu()
        assert list(menu) == ["Sidecar: running", "Show", "Hide", "Restart the sidecar", "Quit"]
        assert not menu["Sidecar: running"].enabled
        assert neighbour.shown(desktop_page.TITLE)

        panel.click("Hide")
        desk.until("the window is hidden", lambda: not neighbour.shown(desktop_page.TITLE))
        desk.shot("11-hidden")
        panel.click("Show")
        desk.until("the window is there again", lambda: neighbour.shown(desktop_page.TITLE))
        desk.shot("12-shown-again")

        panel.click("Hide")
        desk.until("the window is hidden", lambda: not neighbour.shown(desktop_page.TITLE))
        second = subprocess.run([PROGRAM], env={**os.environ, **desk.env}, timeout=30, capture_output=True)
        assert second.returncode == 0
        desk.until("a second start shows it", lambda: neighbour.shown(desktop_page.TITLE))

        first = desktop_page.sidecar_pid(window)
        panel.click("Restart the sidecar")
        window.wait("another sidecar", lambda: desktop_page.sidecar_pid(window) not in (0, first))
        desk.until("the tray says so", lambda: "Sidecar: running" in panel.menu())

        panel.click("Quit")
        desk.until("nothing is left", lambda: not desk.running(), 15)
        assert not (desk.state_dir / "sidecar.pid").exists()
