"""Models downloaded on the page, in a real Chromium, from a hub of the test's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.host_api.app.test_page import SLOW, WIDE, accessible, shot
from tests.support import browser as chromium
from tests.support.fake_hub import FakeHub, Fault
from tests.support.host_servers import host

ALIAS, HUB_ID = "qwen3-vl-2b", "mlx-community/Qwen3-VL-2B-Instruct-4bit"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.browser() as found:
        yield found


@pytest.fixture(scope="module")
def hub(model_dir: Path) -> Iterator[FakeHub]:
    """A hub that has a model of the catalogue: in truth a tiny random one."""
    files: dict[str, bytes | Path] = {p.name: p.read_bytes() for p in (model_dir / "tiny-vl").iterdir()}
    with FakeHub(files, hub_id=HUB_ID) as one:
        yield one


def test_a_model_is_downloaded_cancelled_tried_again_and_used(
    tmp_path: Path, data_dir: Path, browser: Browser, hub: FakeHub
) -> None:
    env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "", "MLX_SIDECAR_CACHE_DIR": str(tmp_path / "c")}
    weights = hub.size("model.safetensors")
    with host(tmp_path, data_dir=data_dir, env=env | {"MLX_SIDECAR_PULL_ATTEMPTS": "1"}) as running:
        context = browser.new_context(viewport=WIDE, color_scheme="light")  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(running.link)
        expect(page.get_by_test_id("phase")).to_have_text("model process: running", timeout=SLOW)
        page.get_by_text("Download models").click()
        offers = page.get_by_role("list", name="Models to download")
        offer = offers.get_by_role("listitem").filter(has_text=ALIAS)
        status = page.get_by_role("status")
        expect(offers.get_by_role("listitem").filter(has_text="SmolLM2")).to_contain_text("here")

        # A failure is shown in the hub's words, and cleared by the next try.
        hub.faults = [Fault("status", times=9, status=404, path="api")]
        offer.get_by_role("button", name=f"Download {ALIAS}").click()
        expect(offer.locator(".error")).to_contain_text(HUB_ID, timeout=SLOW)
        hub.faults, hub.rate = [], weights / 20

        # By the keyboard: the button's place keeps the focus, Enter on it cancels.
        again = offer.get_by_role("button", name=f"Try again: {ALIAS}")
        again.focus()
        page.keyboard.press("Enter")
        expect(offer.get_by_role("progressbar", name=f"Download of {ALIAS}")).to_be_visible()
        expect(offer.locator(".error")).to_have_count(0)
        expect(offer).to_contain_text(re.compile(r"\d+ kB of \d+ kB"), timeout=SLOW)
        expect(status).to_have_text(f"{ALIAS} is being downloaded.")
        shot(page, "download")
        accessible(page)
        cancel = offer.get_by_role("button", name=f"Cancel the download of {ALIAS}")
        expect(cancel).to_be_focused()
        page.keyboard.press("Enter")
        expect(status).to_have_text(f"The download of {ALIAS} was cancelled.")
        expect(offer).to_contain_text("What came is kept")
        expect(again).to_be_focused()

        # It goes on where it was, also while the page is loaded anew; then it is there to be picked.
        hub.rate = weights / 3
        page.keyboard.press("Enter")
        expect(cancel).to_be_focused()
        page.reload()
        page.get_by_text("Download models").click()
        expect(offer.get_by_role("progressbar")).to_be_visible()
        expect(offer.get_by_role("button", name=f"Use {ALIAS} for all it can do")).to_be_visible(timeout=SLOW)
        expect(status).to_have_text(f"{ALIAS} is here.")
        assert hub.sent() < hub.total * 2
        page.get_by_label("text", exact=True).select_option(ALIAS)
        offer.get_by_role("button", name=f"Use {ALIAS} for all it can do").click()
        expect(status).to_have_text(f"{ALIAS} now serves text, vision, structured output, tool use.")
        for capability in ("text", "vision", "structured output", "tool use"):
            expect(page.get_by_label(capability, exact=True).locator("option:checked")).to_have_text(ALIAS)

        # What is no model of the hub is said in words, and goes away again.
        page.get_by_label("Another model of the hub").fill("nobody/nothing")
        page.get_by_label("Another model of the hub").press("Enter")
        unknown = offers.get_by_role("listitem").filter(has_text="nobody/nothing")
        expect(unknown.locator(".error")).to_contain_text("nobody/nothing", timeout=SLOW)
        shot(page, "downloads")
        accessible(page)
        unknown.get_by_role("button", name="Forget nobody/nothing").click()
        expect(unknown).to_have_count(0)
        context.close()
