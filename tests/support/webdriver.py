"""A small W3C WebDriver client and what it drives: WebKit's own driver under Xvfb.

``tauri-driver`` only renames the capability below and passes everything on to the same program, so it is left out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the W3C's key of an element reference
WINDOW = (900, 680)  # pixels, as in tauri.conf.json
KEYS = {"enter": "\ue007", "control": "\ue009", "tab": "\ue004", "escape": "\ue00c"}


class WebDriverError(Exception):
    """The driver refused a command; ``code`` is the W3C's word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Window:
    """A session: one window of one running app."""

    http: httpx.Client
    path: str

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One command. Raises WebDriverError."""
        answer = self.http.request(method, self.path + path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        if answer.is_error:
            raise WebDriverError(value["error"], value["message"])
        return value

    def find(self, css: str) -> str:
        """The first element that fits. Raises WebDriverError."""
        found: str = self.call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]
        return found

    def click(self, css: str) -> None:
        """As a user does."""
        self.call("POST", f"/element/{self.find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Into a field, or the path of a file into a picker."""
        self.call("POST", f"/element/{self.find(css)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Together, and let go."""
        down = [{"type": "keyDown", "value": KEYS.get(k, k)} for k in keys]
        up = [{"type": "keyUp", "value": KEYS.get(k, k)} for k in reversed(keys)]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": [*down, *up]}]})

    def quit(self) -> None:
        """By the keyboard."""
        with contextlib.suppress(WebDriverError, httpx.TransportError):  # gone before the keys were let go
            self.press("control", "q")

    def script(self, text: str, *args: Any) -> Any:
        """What a JavaScript function body returns."""
        return self.call("POST", "/execute/sync", {"script": text, "args": list(args)})

    def text(self, css: str) -> str:
        """The text of all elements that fit, one a line."""
        found: str = self.script(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText).join('\\n')", css
        )
        return found

    def count(self, css: str) -> int:
        """How many elements fit."""
        found: int = self.script("return document.querySelectorAll(arguments[0]).length", css)
        return found

    def wait(self, what: str, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Until ``condition`` holds. Raises AssertionError with the page's text."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s: {what}; the page says:\n{self.text('body')}"
            time.sleep(0.1)


@dataclass(frozen=True)
class Display:
    """A screen that nobody looks at, but for its pictures."""

    name: str
    folder: Path

    def screenshot(self, path: Path, box: tuple[int, int, int, int] = (0, 0, *WINDOW)) -> None:
        """What is on it in ``box`` (left, top, right, bottom), as PNG: the window as the window system shows it."""
        data = (self.folder / "Xvfb_screen0").read_bytes()  # XWD: a header of big-endian words, colours, pixels
        words = struct.unpack(">25I", data[:100])
        start, (width, height), line, colours = words[0], words[4:6], words[12], words[19]
        pixels = data[start + 12 * colours :]
        image = Image.frombuffer("RGB", (width, height), pixels, "raw", "BGRX", line, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.crop(box).save(path)


@contextlib.contextmanager
def display(folder: Path) -> Iterator[Display]:
    """A screen of the tests' own; ``folder`` holds its memory."""
    program = shutil.which("Xvfb")
    assert program, "Xvfb is missing; run make test-desktop, which installs it or says how"
    command = [program, "-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp", "-fbdir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield Display(":" + server.stdout.readline().strip(), folder)
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextlib.contextmanager
def driver(env: Mapping[str, str], output: Path) -> Iterator[httpx.Client]:
    """WebKit's driver; what it starts gets ``env``, and both write to ``output``."""
    program = shutil.which("WebKitWebDriver")
    assert program, "WebKitWebDriver is missing; run make test-desktop, which installs it or says how"
    with output.open("ab") as sink:
        port = _free_port()
        whole = {**os.environ, **env, "TAURI_WEBVIEW_AUTOMATION": "true"}
        command = [program, "--host=127.0.0.1", f"--port={port}"]
        with subprocess.Popen(command, env=whole, stdout=sink, stderr=sink) as process:
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=90, trust_env=False) as http:
                    end = time.monotonic() + 20
                    while True:
                        with contextlib.suppress(httpx.TransportError):
                            http.get("/status")
                            break
                        assert time.monotonic() < end, "WebKitWebDriver does not answer"
                        time.sleep(0.05)
                    yield http
            finally:
                process.terminate()


@contextlib.contextmanager
def window(http: httpx.Client, program: Path) -> Iterator[Window]:
    """Start ``program`` and drive its window; it is ended with the session if it still runs.

    Raises httpx.ReadTimeout when the driver finds no window within 40 seconds.
    """
    options = {"webkitgtk:browserOptions": {"binary": str(program), "args": []}}
    answer = http.post("/session", json={"capabilities": {"alwaysMatch": options}}, timeout=40)
    value = answer.json()["value"]
    if answer.is_error:
        raise WebDriverError(value["error"], value["message"])
    path = f"/session/{value['sessionId']}"
    try:
        yield Window(http, path)
    finally:
        with contextlib.suppress(httpx.TransportError):
            http.delete(path)
