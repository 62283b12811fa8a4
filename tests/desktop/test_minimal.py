"""The least app answers, alone and beside the whole one: two apps on one sidecar."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.desktop.conftest import GRACE, PROGRAM, Desk
from tests.support.desktop_page import PARIS, answer_to, ready, sidecar_pid
from tests.support.webdriver import Window

MINIMAL = Path(os.environ.get("MLX_SIDECAR_MINIMAL_APP", ""))

pytestmark = pytest.mark.skipif(not MINIMAL.name, reason="make test-desktop builds it and says where it is")


def answered(window: Window) -> str:
    """Press the button and return the answer."""
    window.click("button")
    window.wait("an answer", lambda: window.text("#answer") not in ("", "…"), 120)
    return window.text("#answer")


@pytest.fixture
def minimal(desk: Desk, data_dir: Path) -> Desk:
    """Return a desk on which the app finds the sidecar and the model that the whole app carries."""
    library = Path(PROGRAM).parents[1] / "lib" / Path(PROGRAM).name
    desk.more["MLX_SIDECAR_PROGRAM"] = str(library / "mlx-sidecar" / "mlx-sidecar")
    desk.more["MLX_SIDECAR_DATA_DIR"] = str(data_dir)
    return desk


@pytest.mark.timeout(240)
def test_it_starts_the_sidecar_at_the_first_question_and_ends_it(minimal: Desk) -> None:
    with minimal.app(MINIMAL) as window:
        assert minimal.sidecars() == []
        assert answered(window) == "The capital of France is Paris."
        assert len(minimal.sidecars()) == 1
        minimal.shot("20-minimal", (0, 0, 520, 360))
    minimal.until("nothing is left", lambda: not minimal.running() and not minimal.sidecars(), GRACE + 15)


@pytest.mark.timeout(240)
def test_two_apps_share_one_sidecar(minimal: Desk) -> None:
    with minimal.app() as whole:
        ready(whole)
        assert "Paris" in answer_to(whole, PARIS)
        with minimal.app(MINIMAL) as window:
            window.call("POST", "/window/rect", {"x": 340, "y": 280, "width": 520, "height": 360})
            assert "Paris" in answered(window)
            assert minimal.sidecars() == [sidecar_pid(whole)]
            minimal.shot("21-two-apps")
        assert "Paris" in answer_to(whole, PARIS), "the other app's end is nothing to this one"
    minimal.until("nothing is left", lambda: not minimal.running() and not minimal.sidecars(), GRACE + 15)
