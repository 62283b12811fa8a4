"""``POST /v1/embeddings`` and ``POST /tokenize``."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse, Response

from sidecar.api import generation, pictures, routing
from sidecar.api.chat import plain, without_pictures
from sidecar.api.completions import inputs_of
from sidecar.api.replies import CLIENT_CLOSED, PRIORITY_HEADER, service_of
from sidecar.api.schemas import EmbeddingItem, EmbeddingRequest, SamplingFields, TokenizeRequest, error_responses
from sidecar.api.service import Service
from sidecar.api.sse import ClientGone, until_gone
from sidecar.config import Settings
from sidecar.engine.messages import Conversation, Embed, PictureData, Tier, Tokenize
from sidecar.errors import ApiError, bad_request

router = routing.router(tags=["embeddings"])

MAX_INPUTS = 2048


@router.post(
    "/v1/embeddings",
    response_model=None,
    responses={
        200: {"description": "A list of embeddings"},
        **error_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503),
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
    inputs = await asyncio.to_thread(_inputs, service.settings, body.input)
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise _wrong_count()
    with service.queued(tier):
        async with service.models.use(body.model, kind="embedding", keep_alive=body.keep_alive) as (name, model):
            if model.ranks:
                raise bad_request("This model gives no vectors: it ranks documents, by /v1/rerank.", param="model")
            answer = await service.engine.embed(Embed(id=0, path=model.path, inputs=inputs, tier=tier))
    count = len(answer.vectors) // 4
    flat = struct.unpack(f"<{count}f", answer.vectors)
    vectors = [flat[i : i + answer.width] for i in range(0, count, answer.width)]
    if body.dimensions is not None:
        vectors = [_shortened(v, body.dimensions) for v in vectors]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": _encoded(v, body.encoding_format)}
            for i, v in enumerate(vectors)
        ],
        "model": name,
        "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
    }


def _inputs(settings: Settings, given: Any) -> tuple[str | tuple[int, ...] | PictureData, ...]:
    """Return what is to be embedded, pictures fetched. Raises ApiError. Blocking."""
    if isinstance(given, list) and len(given) > MAX_INPUTS and not isinstance(given[0], int):
        raise _wrong_count()
    if not (isinstance(given, list) and EmbeddingItem in set(map(type, given))):
        return tuple(one for one in inputs_of(given) if one or isinstance(one, str))
    out: list[str | PictureData] = []
    for place, one in enumerate(given):
        param = f"input.{place}"
        text, url = (one, "") if isinstance(one, str) else (one.text, one.url)
        if bool(text) == bool(url):
            raise bad_request(f"{param}: give a text or an image.", param=param)
        out.append(text if text else PictureData(param=param, data=pictures.fetch(url, settings, param=param)))
    return tuple(out)


def _wrong_count() -> ApiError:
    return bad_request(f"input: give 1 to {MAX_INPUTS} texts.", param="input")


def _shortened(vector: tuple[float, ...], dimensions: int) -> tuple[float, ...]:
    """Return the first ``dimensions`` values, of length 1 again (as OpenAI shortens). Raises ApiError."""
    if dimensions > len(vector):
        raise bad_request(f"dimensions: this model gives {len(vector)}.", param="dimensions")
    part = vector[:dimensions]
    length = sum(x * x for x in part) ** 0.5 or 1.0
    return tuple(x / length for x in part)


def _encoded(vector: tuple[float, ...], form: str | None) -> tuple[float, ...] | str:
    if form == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector


@router.post("/tokenize", responses=error_responses(400, 401, 403, 404, 408, 413, 415, 422, 503))
async def tokenize(request: Request, body: TokenizeRequest) -> dict[str, Any]:
    """Count and list the tokens of a prompt or of a conversation (without its images)."""
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("Give either prompt or messages.", param="messages")
    conversation = None
    if body.messages is not None:
        if not body.messages:
            raise bad_request("messages: give at least one.", param="messages")
        tools = tuple(t.model_dump(exclude_none=True) for t in body.tools or [])
        conversation = Conversation(messages=without_pictures(plain(body.messages)), tools=tools)
    service = service_of(request)
    async with service.models.use(body.model) as (name, model):
        asked = Tokenize(id=0, path=model.path, prompt=body.prompt, conversation=conversation)
        answer = await service.engine.tokenize(asked)
    limits = [n for n in (service.settings.max_context, model.context) if n > 0]
    tokens = list(answer.tokens)
    return {"model": name, "count": len(tokens), "max_model_len": min(limits, default=0), "tokens": tokens}
