"""The desktop's side of a tray: the D-Bus names and calls of a panel that shows items and clicks in their menus."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jeepney import DBusAddress, MessageType, Properties, new_error, new_method_call, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

WATCHER = "org.kde.StatusNotifierWatcher"
_ITEM = "org.kde.StatusNotifierItem"
_MENU = "com.canonical.dbusmenu"


@dataclass(frozen=True)
class Entry:
    """One line of a menu."""

    number: int
    enabled: bool


class Tray:
    """A panel on a bus, and the items that programs put into it."""

    def __init__(self, bus: str) -> None:
        self._ended = threading.Event()
        self._items: list[DBusAddress] = []
        self._watcher = open_dbus_connection(bus)
        self._calls = open_dbus_connection(bus)
        self._watcher.send_and_get_reply(message_bus.RequestName(WATCHER))
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def close(self) -> None:
        """Leave the bus."""
        self._ended.set()
        self._thread.join()
        self._watcher.close()
        self._calls.close()

    def menu(self) -> dict[str, Entry]:
        """The lines of the one item's menu by their text, lines without text left out."""
        layout = self._call("GetLayout", "iias", (0, -1, []))[1]
        entries = [(number, {key: value for key, (_, value) in said.items()}) for _, (number, said, _) in layout[2]]
        return {
            said["label"].replace("_", ""): Entry(number, said.get("enabled", True))
            for number, said in entries
            if "label" in said
        }

    def click(self, label: str) -> None:
        """Choose a line of the menu."""
        entry = self.menu()[label]
        assert entry.enabled, label
        self._call("Event", "isvu", (entry.number, "clicked", ("i", 0), 0))

    def _call(self, method: str, signature: str, body: tuple[Any, ...]) -> Any:
        item = self._item()
        path = self._ask(Properties(item).get("Menu"))[0][1]
        menu = DBusAddress(path, item.bus_name, _MENU)
        return self._ask(new_method_call(menu, method, signature, body))

    def _ask(self, message: Any) -> Any:
        answer = self._calls.send_and_get_reply(message, timeout=10)
        assert answer.header.message_type is MessageType.method_return, answer.body
        return answer.body

    def _item(self, seconds: float = 20.0) -> DBusAddress:
        end = time.monotonic() + seconds
        while not self._items:
            assert time.monotonic() < end, "no program has put anything into the tray"
            time.sleep(0.02)
        return self._items[-1]

    def _watch(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                self._serve(self._watcher, self._watcher.receive(timeout=0.1))

    def _serve(self, bus: DBusConnection, message: Any) -> None:
        if message.header.message_type is not MessageType.method_call:
            return
        fields = {field.name: value for field, value in message.header.fields.items()}
        match fields["member"]:
            case "RegisterStatusNotifierItem":
                self._items.append(DBusAddress(message.body[0], fields["sender"], _ITEM))
                bus.send(new_method_return(message))
            case "GetAll":
                said = {"IsStatusNotifierHostRegistered": ("b", True), "ProtocolVersion": ("i", 0)}
                bus.send(new_method_return(message, "a{sv}", (said,)))
            case "Get":
                bus.send(new_method_return(message, "v", (("b", True),)))
            case _:
                bus.send(new_error(message, "org.freedesktop.DBus.Error.UnknownMethod"))


@contextlib.contextmanager
def tray(bus: str) -> Iterator[Tray]:
    """A panel meanwhile."""
    it = Tray(bus)
    try:
        yield it
    finally:
        it.close()
