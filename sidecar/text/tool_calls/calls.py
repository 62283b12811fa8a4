"""One answer's calls as they come together, in OpenAI's deltas."""

from __future__ import annotations

import hashlib
from typing import Any

from sidecar.text.delta import Delta


def call_id(key: str, index: int) -> str:
    """Return the id of an answer's call: the same whenever the answer of that ``key`` is read anew."""
    return f"call_{hashlib.sha256(f'{key}.{index}'.encode()).hexdigest()[:24]}"


class Calls:
    """Numbers calls, gives them ids, and keeps back what may turn out to be a repeat.

    A small model that has made its call often makes it again, and again. A call that is being written word for word
    as an earlier one is held until it differs; when it ends without having differed, it is dropped and ``done`` is
    set: the turn is over. ``one``: so it is after the first call.
    """

    def __init__(self, key: str = "", *, one: bool = False) -> None:
        self._key = key
        self._one = one
        self._whole: list[tuple[str, str]] = []
        self._name: str | None = None
        self._arguments = ""
        self._sent = -1  # characters of the arguments that went out; -1: not even the name
        self.done = False

    @property
    def count(self) -> int:
        """How many calls have been seen, the one being written included once it is no repeat."""
        return len(self._whole) + (self._sent >= 0)

    @property
    def open(self) -> bool:
        """Whether a call is being written."""
        return self._name is not None

    def begin(self, name: str, delta: Delta) -> None:
        """Take a call's name."""
        self._name, self._arguments, self._sent = name, "", -1
        self._send(delta)

    def arguments(self, text: str, delta: Delta) -> None:
        """Take more of the open call's arguments, JSON text."""
        self._arguments += text
        self._send(delta)

    def end(self, delta: Delta) -> None:
        """Take the end of the open call."""
        if self._name is None:
            return
        call = (self._name, self._arguments)
        if self._sent < 0 and call in self._whole:
            self.done = True
        else:
            self._send(delta, sure=True)
            self._whole.append(call)
            self.done = self.done or self._one
        self._name, self._sent = None, -1

    def cut(self) -> None:
        """Take the end of the answer amid a call: what went out of it stands."""
        if self._name is not None and self._sent >= 0:
            self._whole.append((self._name, self._arguments))
        self._name, self._sent = None, -1

    def _send(self, delta: Delta, *, sure: bool = False) -> None:
        if self.done or self._name is None or (not sure and self._sent < 0 and self._may_repeat()):
            return
        out: dict[str, Any] = {"index": len(self._whole), "function": {}}
        if self._sent < 0:
            self._sent = 0
            out |= {"id": call_id(self._key, len(self._whole)), "type": "function"}
            out["function"] = {"name": self._name, "arguments": self._arguments}
        elif len(self._arguments) > self._sent:
            out["function"] = {"arguments": self._arguments[self._sent :]}
        else:
            return
        self._sent = len(self._arguments)
        delta.tool_calls.append(out)

    def _may_repeat(self) -> bool:
        return any(name == self._name and whole.startswith(self._arguments) for name, whole in self._whole)
