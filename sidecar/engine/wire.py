"""Messages as bytes on a stream: a length, a kind, and the message in MessagePack. No pickle.

What arrives is checked against the message's types as it is read; anything else is a ``WireError``, after which the
connection is of no use.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from sidecar.engine import control, messages
from sidecar.engine.control import Message

LONGEST = 1 << 30
"""Bytes a message may have: far more than the pictures of the largest body."""

_HEAD = struct.Struct(">IB")
_KINDS: tuple[type[Any], ...] = (
    control.Start,
    messages.Load,
    messages.Unload,
    messages.Shed,
    messages.Cancel,
    messages.Generate,
    messages.Embed,
    messages.Tokenize,
    messages.Decide,
    control.Ready,
    messages.Loaded,
    messages.Finished,
    messages.Refused,
    messages.Prepared,
    messages.Began,
    messages.Prefilled,
    messages.Piece,
    messages.Embedded,
    messages.Tokenized,
    messages.Decided,
    control.Pulse,
    control.LogLine,
    control.Hold,
)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_DECODERS = tuple(msgspec.msgpack.Decoder(kind) for kind in _KINDS)
_encode = msgspec.msgpack.Encoder().encode


class WireError(Exception):
    """Bytes that are no message, or a message that can't be sent."""


def encode(message: Message) -> bytes:
    """Return the bytes of a message. Raises WireError for numbers and text that MessagePack has no form for."""
    try:
        body = _encode(message)
    except (OverflowError, UnicodeError, TypeError, ValueError, RecursionError) as exc:
        raise WireError(str(exc)) from exc
    if len(body) > LONGEST:
        raise WireError(f"a message of {len(body)} bytes is too long")
    return _HEAD.pack(len(body), _NUMBERS[type(message)]) + body


class Reader:
    """Cuts a stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take bytes as they came; yield the messages that are whole now. Raises WireError."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            length, kind = _HEAD.unpack_from(self._buffer)
            if length > LONGEST or kind >= len(_KINDS):
                raise WireError(f"no message begins with {bytes(self._buffer[:5])!r}")
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            try:
                message: Message = _DECODERS[kind].decode(body)
            except (msgspec.MsgspecError, ValueError) as exc:
                raise WireError(f"a damaged {_KINDS[kind].__name__}: {exc}") from exc
            yield message
