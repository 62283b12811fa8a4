"""What the completion routes share."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request

from sidecar.api.generation import Piece, Plan, run
from sidecar.api.service import Service
from sidecar.backend.loader import LoadedModel
from sidecar.engine.messages import Tier, Token

log = logging.getLogger("sidecar.api")

PRIORITY_HEADER = "X-Request-Priority"
SERVICE_TIERS = {Tier.INTERACTIVE: "default", Tier.BATCH: "flex"}
CLIENT_CLOSED = 499
HEADERS_AFTER = 5.0  # seconds a stream waits for its first token before its headers are sent


def service_of(request: Request) -> Service:
    """The server's state."""
    service: Service = request.app.state.service
    return service


def new_id(prefix: str) -> str:
    """A fresh id of OpenAI's form."""
    return f"{prefix}-{uuid.uuid4().hex}"


def now() -> int:
    """Seconds since the epoch."""
    return int(time.time())


def token_text(loaded: LoadedModel, token: int) -> tuple[str, list[int]]:
    """A token's text and bytes; bytes are exact also where they are part of a character."""
    from mlx_vlm.tokenizer_utils import BPEStreamingDetokenizer

    detokenizer = loaded.processor.detokenizer
    if isinstance(detokenizer, BPEStreamingDetokenizer):
        piece = loaded.tokenizer.convert_ids_to_tokens(token)
        table: dict[str, int] | None = getattr(BPEStreamingDetokenizer, "_byte_decoder", None)
        if table is not None and piece is not None and all(c in table for c in piece):
            raw = bytes(table[c] for c in piece)
            return raw.decode("utf-8", "replace"), list(raw)
    text = str(loaded.tokenizer.decode([token]))
    return text, list(text.encode())


def logprob_entry(loaded: LoadedModel, token: Token, top: int) -> dict[str, Any]:
    """OpenAI's chat logprob document of one token."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text, raw = token_text(loaded, token_id)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": raw}

    return {
        **entry(token.id, token.logprob),
        "top_logprobs": [entry(i, value) for i, value in token.top[:top]],
    }


@asynccontextmanager
async def pieces(service: Service, loaded: LoadedModel, plan: Plan) -> AsyncIterator[AsyncIterator[Piece]]:
    """The pieces of a plan, cancelled when the block is left."""
    iterator = run(service, loaded, plan)
    try:
        yield iterator
    finally:
        await iterator.aclose()  # type: ignore[attr-defined]


async def first(iterator: AsyncIterator[Any], patience: float) -> tuple[Any, asyncio.Future[Any] | None]:
    """The first item, or the future of it when it takes longer than ``patience`` seconds."""
    pending = asyncio.ensure_future(anext(iterator, None))
    try:
        finished, _ = await asyncio.wait({pending}, timeout=patience)
    except asyncio.CancelledError:
        pending.cancel()
        raise
    return (pending.result(), None) if finished else (None, pending)


def stops_of(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings as a tuple."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())
