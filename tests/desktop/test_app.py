"""The built app with the frozen sidecar, used as a person does."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from host_api.host import SidecarHost
from host_api.protocol.lock import FileLock
from tests.desktop.conftest import GRACE, PROGRAM, Desk
from tests.support.desktop_page import ANSWER, PARIS, answer_to, ask, attached, ready, sidecar_pid
from tests.support.documents import png, shape


@pytest.mark.timeout(240)
def test_a_conversation(desk: Desk, tmp_path: Path) -> None:
    desk.state_dir.mkdir(mode=0o700)
    launching = FileLock(desk.state_dir / "launch.lock")
    assert launching.try_exclusive()  # another host is at it: the app waits for its turn, however quick the machine is
    with desk.app() as window:
        window.wait(
            "it comes up", lambda: "Sidecar: Starting…" in window.text("[data-testid=phase] > span:nth-child(2)")
        )
        desk.shot("0-starting")
        launching.close()
        ready(window)
        desk.shot("1-ready")

        assert "Paris" in answer_to(window, PARIS)
        desk.shot("2-answer")

        blue = tmp_path / "square.png"
        blue.write_bytes(png(shape("square", "blue")))
        window.type("[data-testid=picker]", str(blue))
        window.wait("the picked one", lambda: attached(window) == 1)
        window.click(".attached button")
        window.wait("none", lambda: not attached(window))

        window.click("header button")
        window.wait("the dialogue", lambda: "On this machine" in window.text("dialog"))
        desk.shot("3-models")
        window.press("escape")

        app = desk.pid(Path(PROGRAM).name)
        sidecar = sidecar_pid(window)
        assert {app, sidecar} <= set(desk.running())
        window.quit()
        desk.until("nothing is left", lambda: not desk.running(), 15)
        assert not (desk.state_dir / "sidecar.pid").exists()


@pytest.mark.timeout(240)
def test_a_sidecar_killed_in_the_middle_of_an_answer(desk: Desk) -> None:
    with desk.app() as window:
        ready(window)
        first = sidecar_pid(window)
        ask(window, "Write a long story about a fox, a crow and a river.")
        window.wait("its beginning", lambda: len(window.text(ANSWER)) > 20, 120)
        os.kill(first, signal.SIGKILL)
        window.wait("a message", lambda: "broke off" in window.text("[data-testid=broken]"))
        desk.shot("4-broken")
        # The page may hear of the broken stream before the app does of the death.
        window.wait("another", lambda: window.text("[data-testid=sidecar]") and sidecar_pid(window) != first)
        ready(window)
        ask(window, PARIS)
        window.wait("Paris", lambda: "Paris" in window.text(ANSWER), 120)
        desk.shot("5-goes-on")
        window.quit()
        desk.until("nothing is left", lambda: not desk.running(), 15)


def test_restart_by_the_button(desk: Desk) -> None:
    with desk.app() as window:
        ready(window)
        first = sidecar_pid(window)
        window.script("[...document.querySelectorAll('header button')].find((b) => b.innerText === 'Restart').click()")
        window.wait("another", lambda: sidecar_pid(window) not in (0, first))
        assert desk.sidecars() == [sidecar_pid(window)]
        window.quit()
        desk.until("nothing is left", lambda: not desk.running(), 15)


def test_a_killed_app_leaves_nothing_after_the_grace_time(desk: Desk) -> None:
    desk.more["GTK_THEME"] = "Adwaita:dark"
    with desk.app() as window:
        ready(window)
        desk.shot("6-dark")
        sidecar = sidecar_pid(window)
        os.kill(desk.pid(Path(PROGRAM).name), signal.SIGKILL)
        assert sidecar in desk.sidecars()
        desk.until("nothing is left", lambda: not desk.running(), GRACE + 15)


@pytest.mark.parametrize("python_quits_first", [True, False])
@pytest.mark.parametrize("python_starts_first", [True, False])
def test_beside_a_python_host(desk: Desk, python_starts_first: bool, python_quits_first: bool) -> None:
    host = SidecarHost(desk.host_config())
    try:
        if python_starts_first:
            host.ensure_running()
        with desk.app() as window:
            ready(window)
            connection = host.ensure_running()
            assert connection.pid == sidecar_pid(window)
            assert desk.sidecars() == [connection.pid]
            assert ("attached" in window.text("[data-testid=sidecar]")) == python_starts_first
            if python_starts_first and python_quits_first:
                desk.shot("7-attached")
            if python_quits_first:
                host.release()
                assert "Paris" in answer_to(window, PARIS)
                window.quit()
            else:
                window.quit()
                # The sidecar and its engine; both have the app's environment, since it started them.
                desk.until("the app is gone", lambda: set(desk.running().values()) <= {"mlx-sidecar"}, 15)
                with connection.client() as http:
                    assert http.get("/health").json()["instance_id"] == connection.instance_id
                host.release()
            desk.until("no sidecar is left", lambda: not desk.sidecars() and not desk.running(), GRACE + 15)
    finally:
        host.release()


def test_a_second_start_shows_the_first(desk: Desk, bus: str) -> None:
    env = {**desk.env, "DBUS_SESSION_BUS_ADDRESS": bus}
    first = subprocess.Popen([PROGRAM], env={**os.environ, **env}, stderr=subprocess.DEVNULL)
    try:
        desk.until("a sidecar", lambda: (desk.state_dir / "sidecar.pid").exists())
        second = subprocess.run([PROGRAM], env={**os.environ, **env}, timeout=30, capture_output=True)
        assert second.returncode == 0
        assert first.poll() is None
        assert len(desk.sidecars()) == 1
    finally:
        first.terminate()
        first.wait(10)
    desk.until("nothing is left", lambda: not desk.running(), GRACE + 15)
