"""Another program on the app's screen, over the X protocol itself: it drags files, has the clipboard, presses keys.

What it does is what a file manager, a screenshot tool and a keyboard do; the app can't tell the difference.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from Xlib import XK, X, Xatom
from Xlib.display import Display
from Xlib.error import XError
from Xlib.ext import xtest
from Xlib.protocol import event

_PLACE = (1000, 700, 100, 100)  # of the window that files are dragged from: x, y, width, height
_VERSION = 5  # of the drag-and-drop protocol, XDND


class Neighbour:
    """A connection to the display, with a small window of its own."""

    def __init__(self, display: str) -> None:
        self._x = Display(display)
        self._root = self._x.screen().root
        x, y, width, height = _PLACE
        self._window = self._root.create_window(
            x, y, width, height, 0, X.CopyFromParent, event_mask=X.ButtonPressMask | X.ButtonReleaseMask
        )
        self._offer: dict[int, bytes] = {}

    def close(self) -> None:
        """Leave the display; what it offered is gone."""
        self._x.close()

    def window(self, title: str) -> Any:
        """The window of that title, shown or hidden; None when there is none."""
        for each in self._root.query_tree().children:
            with contextlib.suppress(XError):  # gone meanwhile
                name = each.get_full_text_property(self._atom("_NET_WM_NAME"))
                if name == title and not each.get_attributes().override_redirect:
                    return each
        return None

    def shown(self, title: str) -> bool:
        """Whether the window of that title can be seen."""
        found = self.window(title)
        return found is not None and found.get_attributes().map_state == X.IsViewable

    def keys(self, title: str, *names: str) -> None:
        """Press keys together in the window of that title, and let go."""
        self.window(title).set_input_focus(X.RevertToParent, X.CurrentTime)
        codes = [self._x.keysym_to_keycode(XK.string_to_keysym(name)) for name in names]
        for kind, order in ((X.KeyPress, codes), (X.KeyRelease, codes[::-1])):
            for code in order:
                xtest.fake_input(self._x, kind, code)
        self._x.sync()

    def drag(self, path: Path, to: tuple[int, int], until: Callable[[], object], seconds: float = 30.0) -> None:
        """Drag a file with the mouse to a place on the screen, move it about there ``until`` it shows, and drop it.

        Raises AssertionError if it isn't taken.
        """
        end = time.monotonic() + seconds
        x, y, width, height = _PLACE
        self._window.map()
        self.own("XdndSelection", {"text/uri-list": f"{path.as_uri()}\r\n".encode()})
        self._point(x + width // 2, y + height // 2)
        xtest.fake_input(self._x, X.ButtonPress, 1)
        self._await(X.ButtonPress, end)
        target = self._aware(*to)
        kind = self._atom("text/uri-list")
        self._tell(target, "XdndEnter", _VERSION << 24, kind, 0, 0)
        # The first answer comes before the page was asked; a hand is slower than that.
        taken, step = False, 0
        while not taken or not until():
            step += 1
            here = (to[0] + step % 7, to[1])
            self._point(*here)
            self._tell(target, "XdndPosition", 0, here[0] << 16 | here[1], X.CurrentTime, self._atom("XdndActionCopy"))
            taken = bool(self._await("XdndStatus", end)[1] & 1)
        xtest.fake_input(self._x, X.ButtonRelease, 1)
        self._await(X.ButtonRelease, end)
        self._tell(target, "XdndDrop", 0, X.CurrentTime, 0, 0)
        assert self._await("XdndFinished", end)[1] & 1, "the drop was refused"
        self._window.unmap()
        self._x.sync()

    def own(self, selection: str, offer: Mapping[str, bytes]) -> None:
        """Offer these types as a selection, such as CLIPBOARD."""
        self._offer = {self._atom(name): data for name, data in offer.items()}
        self._window.set_selection_owner(self._atom(selection), X.CurrentTime)
        self._x.sync()

    def serve(self, ended: threading.Event) -> None:
        """Give what is offered to who asks for it until ``ended``."""
        while not ended.is_set():
            self._next(0.05)

    def _atom(self, name: str) -> int:
        return int(self._x.intern_atom(name))

    def _point(self, x: int, y: int) -> None:
        xtest.fake_input(self._x, X.MotionNotify, x=x, y=y)

    def _aware(self, x: int, y: int) -> Any:
        """The window at a place that takes drops."""
        found = self._root.query_tree().children
        for each in reversed(found):
            place, attributes = each.get_geometry(), each.get_attributes()
            inside = place.x <= x < place.x + place.width and place.y <= y < place.y + place.height
            if inside and attributes.map_state == X.IsViewable:
                aware = each.get_full_property(self._atom("XdndAware"), X.AnyPropertyType)
                assert aware is not None, "the window there takes no drops"
                return each
        raise AssertionError("no window there")

    def _tell(self, target: Any, name: str, *words: int) -> None:
        data = (32, [self._window.id, *words])
        target.send_event(event.ClientMessage(window=target, client_type=self._atom(name), data=data))
        self._x.flush()

    def _await(self, what: str | int, end: float) -> list[int]:
        """The words of the next message of that name, or nothing of an event of that kind."""
        while True:
            assert time.monotonic() < end, f"no {what} came"
            got = self._next(0.1)
            if got is None:
                continue
            if got.type == what:
                return []
            if isinstance(what, str) and got.type == X.ClientMessage and got.client_type == self._atom(what):
                return list(got.data[1])

    def _next(self, seconds: float) -> Any:
        """The next event, None if none comes in time; requests for what is offered are answered on the way."""
        if not self._x.pending_events() and not select.select([self._x], [], [], seconds)[0]:
            return None
        if not self._x.pending_events():
            return None
        got = self._x.next_event()
        if got.type == X.SelectionRequest:
            self._answer(got)
        return got

    def _answer(self, request: Any) -> None:
        place = request.property or request.target
        if request.target == self._atom("TARGETS"):
            request.requestor.change_property(place, Xatom.ATOM, 32, [request.target, *self._offer])
        elif request.target in self._offer:
            request.requestor.change_property(place, request.target, 8, self._offer[request.target])
        else:
            place = X.NONE
        request.requestor.send_event(
            event.SelectionNotify(
                time=request.time,
                requestor=request.requestor,
                selection=request.selection,
                target=request.target,
                property=place,
            )
        )
        self._x.flush()


@contextlib.contextmanager
def clipboard(display: str, offer: Mapping[str, bytes]) -> Iterator[None]:
    """A program of its own that has these types on the clipboard."""
    owner, ended = Neighbour(display), threading.Event()
    owner.own("CLIPBOARD", offer)
    thread = threading.Thread(target=owner.serve, args=(ended,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        owner.close()
