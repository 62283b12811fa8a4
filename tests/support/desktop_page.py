"""What a person does on the app's page, and what the page then shows."""

from __future__ import annotations

from tests.support.webdriver import Window

TITLE = "Private chat"
ANSWER = "article.assistant:last-of-type"
PARIS = "What is the capital of France?"


def ready(window: Window) -> None:
    """Wait until the sidecar runs and a model is there."""
    window.wait("the sidecar is ready", lambda: "Ready" in window.text("[data-testid=phase]"))
    window.wait("a model", lambda: "starter" in window.text("header"))


def sidecar_pid(window: Window) -> int:
    """The PID the page shows; 0 while it shows none."""
    last = window.text("[data-testid=sidecar]").rpartition(" ")[2]
    return int(last) if last.isdigit() else 0


def ask(window: Window, text: str) -> None:
    """Type a message and send it."""
    window.type("textarea", text)
    window.press("enter")


def answer_to(window: Window, text: str) -> str:
    """Ask, and wait for the whole answer."""
    before = window.count("article.assistant")
    ask(window, text)
    window.wait("an answer", lambda: window.count("article.assistant") == before + 1, 120)
    window.wait("its end", lambda: window.text(ANSWER) and "Send" in window.text("form.composer"), 120)
    return window.text(ANSWER)


def attached(window: Window) -> int:
    """How many pictures wait to be sent."""
    return window.count(".attached img")


def assert_seen(window: Window, *words: str) -> None:
    """The one picture that came in is sent, and the model's answer about it has these words."""
    window.wait("the picture", lambda: attached(window) == 1)
    answer = answer_to(window, "What is in this picture?").lower()
    assert [word for word in words if word not in answer] == [], answer
