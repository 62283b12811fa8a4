"""gpt-oss's channels: one stream of messages that says of each whether it is thought, answer or call.

An answer goes on after ``<|start|>assistant`` in the prompt::

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>

``analysis`` is the reasoning, ``final`` the answer, ``commentary`` with a recipient a call and without one a word to
the user before it calls. The recipient may stand before the channel, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sidecar.text.delta import Delta
from sidecar.text.detokenizer import Symbols
from sidecar.text.stops import held_back
from sidecar.text.tool_calls.calls import Calls

THOUGHT, THOUGHT_END = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant"
"""What a thought stands between, where more comes."""
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
"""What ends a thought and begins the answer."""

_RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")


def is_harmony(template: str) -> bool:
    """Return whether a chat template writes channels."""
    return "<|channel|>" in template and "<|message|>" in template


class HarmonyReader:
    """Splits an answer into reasoning, content and calls by its channels."""

    def __init__(
        self, schemas: Mapping[str, dict[str, Any]], *, symbols: Symbols, one: bool = False, key: str = ""
    ) -> None:
        self._schemas = schemas
        self._plain = symbols.plain
        self._message = symbols.encode("<|message|>")
        self._channel = symbols.encode("<|channel|>")
        self._ends = [symbols.encode(m) for m in ("<|end|>", "<|start|>", "<|call|>", "<|return|>")]
        self._constrain = symbols.encode("<|constrain|>")
        self._calls = Calls(key, one=one)
        self._buffer = ""
        self._kind: str | None = None  # of the message being read; None in a header

    @property
    def thinking(self) -> bool:
        """Whether the text that comes now is reasoning."""
        return self._kind == "reasoning"

    @property
    def done(self) -> bool:
        """Whether the answer may end: the one call allowed is there, or a call came a second time."""
        return self._calls.done

    @property
    def count(self) -> int:
        """How many calls were found so far."""
        return self._calls.count

    def feed(self, text: str) -> Delta:
        """Return what became clear."""
        self._buffer += text
        delta = Delta()
        while self._buffer and not self.done:
            if self._kind is None:
                if not self._header(delta):
                    break
            elif not self._body(delta):
                break
        return delta

    def _header(self, delta: Delta) -> bool:
        """Take a header if it is whole; whether there may be more to read."""
        head, found, rest = self._buffer.partition(self._message)
        if not found:
            if head.startswith((self._channel, " to=", "to=", "assistant")) or not head.strip():
                return False
            if any(beginning.startswith(head) for beginning in (self._channel, " to=", "to=", "assistant")):
                return False
            self._kind = "content"  # no header at all: a model that knows no channels
            return True
        self._buffer = rest
        recipient = _RECIPIENT.search(head.replace(self._channel, " ").replace(self._constrain, " "))
        if recipient and recipient[1] in self._schemas:
            self._kind = "call"
            self._calls.begin(recipient[1], delta)
        elif recipient or f"{self._channel}analysis" in head:
            self._kind = "reasoning"
        else:
            self._kind = "content"
        return True

    def _body(self, delta: Delta) -> bool:
        at, marker = min(
            ((self._buffer.find(m), m) for m in self._ends if m in self._buffer), default=(-1, ""), key=lambda f: f[0]
        )
        keep = held_back(self._buffer, self._ends) if at < 0 else 0
        text = self._buffer[: at if at >= 0 else len(self._buffer) - keep]
        self._buffer = self._buffer[at + len(marker) :] if at >= 0 else self._buffer[len(text) :]
        self._say(self._plain(text), delta)
        if at < 0:
            return False
        if self._kind == "call":
            self._calls.end(delta)
        self._kind = None
        self._buffer = self._buffer.removeprefix(self._ends[1])  # the next message's <|start|>
        return True

    def _say(self, text: str, delta: Delta) -> None:
        if self._kind == "call":
            self._calls.arguments(text, delta)
        elif self._kind == "reasoning":
            delta.reasoning += text
        else:
            delta.content += text

    def finish(self, *, whole: bool = True) -> Delta:
        """Return what was held back. ``whole``: the model ended by itself, so that an open call is complete."""
        delta = Delta()
        if self._kind is not None:
            self._say(self._plain(self._buffer), delta)
        self._buffer = ""
        if self._kind == "call":
            if whole:
                self._calls.end(delta)
            else:
                self._calls.cut()
        return delta
