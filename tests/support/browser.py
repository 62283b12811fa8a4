"""A real Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

expect.set_options(timeout=30_000)  # a busy machine draws late; what never comes fails all the same
SCREENSHOTS = Path(__file__).resolve().parents[2] / "artifacts" / "page"
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def chromium() -> str:
    """The path of a Chromium or Chrome; the test fails with what to install where there is none."""
    given = os.environ.get("CHROMIUM")
    found = next((p for n in ([given] if given else _NAMES) if (p := shutil.which(n))), None)
    if found is None and _MAC.exists():
        found = str(_MAC)
    if found is None:
        pytest.fail(
            "There is no Chromium for the page's tests: install one (Debian: apt-get install chromium; "
            "macOS: Google Chrome), or say where it is with CHROMIUM=/path/to/it."
        )
    return found


@contextmanager
def browser(*flags: str) -> Iterator[Browser]:
    """A headless browser until the end of the block."""
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium(),
            args=[*alone, *flags, "--disable-gpu"],
            env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"},
        )
        try:
            yield running
        finally:
            running.close()
