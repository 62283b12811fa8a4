"""Vectors that the engine computed, as the reply that carries them."""

from __future__ import annotations

import struct
from concurrent.futures import Future

from sidecar.engine.messages import Embedded, Refused, Reply


def reply_of(number: int, done: Future[tuple[list[list[float]], int]]) -> Reply | None:
    """Return what answers request ``number``; None where nobody waits any more."""
    if done.cancelled():
        return None
    try:
        vectors, tokens = done.result()
    except ValueError as exc:
        return Refused(id=number, status=400, message=f"input: {exc}.", param="input")
    except Exception as exc:
        return Refused(id=number, status=500, message=f"The model failed on this request: {exc}")
    flat = [x for v in vectors for x in v]
    packed = struct.pack(f"<{len(flat)}f", *flat)
    return Embedded(id=number, vectors=packed, width=len(vectors[0]), tokens=tokens)
