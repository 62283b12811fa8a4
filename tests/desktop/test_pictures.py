"""Pictures come into the app as they do on a desk: dragged from another window, pasted with the keyboard."""

from __future__ import annotations

import pytest

from tests.desktop.conftest import Desk
from tests.support import desktop_page
from tests.support.documents import png, shape
from tests.support.neighbour import Neighbour, clipboard

MIDDLE = (450, 300)  # of the conversation, on the screen


@pytest.mark.timeout(240)
def test_dropped_and_pasted_pictures_are_seen(desk: Desk, neighbour: Neighbour) -> None:
    with desk.app() as window:
        desktop_page.ready(window)

        def over() -> bool:
            dragging = window.count(".app.dragging") == 1
            if dragging:
                desk.shot("8-dragging")
            return dragging

        circle = desk.home / "a red circle.png"
        circle.write_bytes(png(shape("circle", "red")))
        neighbour.drag(circle, MIDDLE, over)
        window.wait("its end", lambda: window.count(".app.dragging") == 0)
        desktop_page.assert_seen(window, "red", "circle")
        desk.shot("9-dropped")

        with clipboard(desk.screen.name, {"image/png": png(shape("square", "blue"))}):
            window.click("textarea")
            neighbour.keys(desktop_page.TITLE, "Control_L", "v")
            desktop_page.assert_seen(window, "blue", "square")
        desk.shot("10-pasted")

        note = desk.home / "note.txt"
        note.write_text("no picture")
        neighbour.drag(note, MIDDLE, over)
        window.wait("why not", lambda: "Not an image that can be read: note.txt" in window.text("[role=alert]"))
        assert desktop_page.attached(window) == 0
        with clipboard(desk.screen.name, {"UTF8_STRING": b"Just words.", "text/plain": b"Just words."}):
            window.click("textarea")
            neighbour.keys(desktop_page.TITLE, "Control_L", "v")
            window.wait("the words", lambda: window.script("return document.querySelector('textarea').value"))
        assert desktop_page.attached(window) == 0
        window.quit()
        desk.until("nothing is left", lambda: not desk.running(), 15)
