"""A model fetched through the app's picker, from a hub on this machine: progress, cancelled, resumed, chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.desktop.conftest import Desk
from tests.support import desktop_page, models
from tests.support.fake_hub import FakeHub
from tests.support.webdriver import Window

HUB_ID = "acme/tiny-vl"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with a random model of some megabytes."""
    folder = models.qwen3_vl(tmp_path / "source" / "tiny", hidden=256)
    files: dict[str, bytes | Path] = {p.name: p.read_bytes() for p in folder.iterdir()}
    with FakeHub(files, hub_id=HUB_ID) as it:
        yield it


def bar(window: Window) -> float:
    """How far the progress bar is, of 1; 0 while there is none."""
    found: float = window.script("return document.querySelector('dialog progress[max]')?.position ?? 0")
    return found


@pytest.mark.timeout(120)
def test_a_model_is_fetched_cancelled_resumed_and_chosen(desk: Desk, hub: FakeHub) -> None:
    desk.more |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "", "HF_HOME": str(desk.home / "hub")}
    weights = hub.size("model.safetensors")
    with desk.app() as window:
        desktop_page.ready(window)
        window.click("header button")
        window.wait("the dialogue", lambda: "On this machine" in window.text("dialog"))

        hub.rate = weights / 10  # bytes a second
        window.type("dialog input[list]", HUB_ID)
        window.click("dialog form button")
        window.wait("progress", lambda: bar(window) > 0.1)
        first = bar(window)
        window.wait("more of it", lambda: bar(window) > first)
        assert f"of {hub.total / 1e6:.0f} MB" in window.text("dialog .downloads small")
        desk.shot("13-pulling")
        window.click("dialog .downloads button")
        window.wait("its end", lambda: f"{HUB_ID}: cancelled" in window.text("dialog .downloads"))
        assert HUB_ID not in window.text("dialog fieldset")
        had = hub.sent()
        assert had < weights
        desk.shot("14-cancelled")

        hub.rate = 0.0
        window.click("dialog form button")  # the name is still there
        window.wait("its end", lambda: f"{HUB_ID}: done" in window.text("dialog .downloads"))
        resumed = [seen.range for seen in hub.seen if seen.range and seen.method == "GET"]
        assert resumed, "what was there is not fetched again"
        assert hub.sent() < 1.2 * hub.total

        window.wait("the model in the list", lambda: HUB_ID in window.text("dialog fieldset"))
        window.click("dialog label:nth-of-type(2) input")
        window.press("escape")
        window.wait("the choice", lambda: f"Model: {HUB_ID}" in window.text("header"))
        desktop_page.ask(window, "hi")
        window.wait("that it answers", lambda: window.text(desktop_page.ANSWER), 60)
        desk.shot("15-chosen")
        window.quit()
        desk.until("nothing is left", lambda: not desk.running(), 15)
