"""``POST /v1/embeddings`` and ``POST /tokenize``."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from sidecar.api import generation
from sidecar.api.replies import CLIENT_CLOSED, PRIORITY_HEADER, service_of
from sidecar.api.schemas import EmbeddingRequest, SamplingFields, TokenizeRequest, error_responses
from sidecar.api.service import Service
from sidecar.api.sse import ClientGone, until_gone
from sidecar.backend.loader import LoadedModel
from sidecar.engine.messages import Tier
from sidecar.errors import bad_request
from sidecar.text.prompt import build_prompt, tokenize_text

router = APIRouter(tags=["embeddings"])

MAX_INPUTS = 2048


@router.post(
    "/v1/embeddings",
    response_model=None,
    responses={
        200: {"description": "A list of embeddings"},
        **error_responses(400, 401, 403, 404, 408, 413, 422, 429, 500, 503),
    },
)
async def embeddings(
    request: Request, body: EmbeddingRequest, x_request_priority: Annotated[str | None, Header()] = None
) -> Response:
    """Vectors of texts."""
    tier, _ = generation.tier_of(x_request_priority, SamplingFields())
    service = service_of(request)
    try:
        with service.active():
            document = await until_gone(request, _embed(service, body, tier))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)
    return JSONResponse(document, headers={PRIORITY_HEADER: tier.label})


async def _embed(service: Service, body: EmbeddingRequest, tier: Tier) -> dict[str, Any]:
    async with service.use(body.model, kind="embedding", keep_alive=body.keep_alive) as (name, loaded):
        texts = await asyncio.to_thread(_texts, loaded, body)
        with service.queued(tier):
            future = service.engine.embed(loaded.path, texts, tier)
            try:
                vectors, tokens = await asyncio.wrap_future(future)
            except ValueError as exc:
                raise bad_request(f"input: {exc}.", param="input") from exc
    if body.dimensions is not None:
        vectors = [_shortened(v, body.dimensions) for v in vectors]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": _encoded(v, body.encoding_format)}
            for i, v in enumerate(vectors)
        ],
        "model": name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _texts(loaded: LoadedModel, body: EmbeddingRequest) -> list[str]:
    given = body.input
    if isinstance(given, str):
        texts: list[str] = [given]
    elif given and isinstance(given[0], str):
        texts = [str(t) for t in given]
    else:
        rows: Any = given if given and isinstance(given[0], list) else [given]
        size = len(loaded.tokenizer)
        if any(not 0 <= t < size for row in rows for t in row):
            raise bad_request(f"input: token ids are between 0 and {size - 1}.", param="input")
        texts = [loaded.tokenizer.decode(row, skip_special_tokens=True) for row in rows if row]
    if not texts or len(texts) > MAX_INPUTS:
        raise bad_request(f"input: give 1 to {MAX_INPUTS} texts.", param="input")
    if not all(texts):
        raise bad_request("input: a text is empty.", param="input")
    return texts


def _shortened(vector: list[float], dimensions: int) -> list[float]:
    """The first ``dimensions`` values, of length 1 again (as OpenAI shortens). Raises ApiError."""
    if dimensions > len(vector):
        raise bad_request(f"dimensions: this model gives {len(vector)}.", param="dimensions")
    part = vector[:dimensions]
    length = sum(x * x for x in part) ** 0.5 or 1.0
    return [x / length for x in part]


def _encoded(vector: list[float], form: str | None) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector


@router.post("/tokenize", responses=error_responses(400, 401, 403, 404, 408, 413, 422, 503))
async def tokenize(request: Request, body: TokenizeRequest) -> dict[str, Any]:
    """Count and list the tokens of a prompt or of a conversation (without its images)."""
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("Give either prompt or messages.", param="messages")
    service = service_of(request)
    async with service.use(body.model) as (name, loaded):
        tokens = await asyncio.to_thread(_tokens, loaded, body)
    limits = [n for n in (service.settings.max_context, loaded.context) if n > 0]
    return {"model": name, "count": len(tokens), "max_model_len": min(limits, default=0), "tokens": tokens}


def _tokens(loaded: LoadedModel, body: TokenizeRequest) -> list[int]:
    if body.prompt is not None:
        return list(tokenize_text(loaded, body.prompt).tokens)
    messages = [m.model_dump(exclude_none=True) for m in body.messages or []]
    if not messages:
        raise bad_request("messages: give at least one.", param="messages")
    for message in messages:
        if isinstance(message.get("content"), list):
            message["content"] = [p for p in message["content"] if p["type"] != "image_url"]
    tools = [t.model_dump(exclude_none=True) for t in body.tools or []]
    return list(build_prompt(loaded, messages, (), tools=tools).tokens)
