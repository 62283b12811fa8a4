"""``POST /v1/rerank``: documents in the order in which they answer a query, as Cohere and Jina have it.

By a chat model, or a reranker of the Qwen3 and Qwen3-VL kind, which is one: each document is put to the model as those
rerankers are trained on it, and its score is the probability of "yes" against "no" (``decisions``); pictures too where
the model sees. By a cross-encoder (BERT, XLM-RoBERTa, ModernBERT with one label): its own score, 0 to 1. By a model of
embeddings: the cosine of query and document. ``meta.method`` says which it was.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Discriminator, Field, Tag

from sidecar.api import generation, routing
from sidecar.api.chat import conversation_of
from sidecar.api.conversation import Body
from sidecar.api.decisions import Question, result_of
from sidecar.api.replies import CLIENT_CLOSED, PRIORITY_HEADER, service_of
from sidecar.api.schemas import ChatRequest, KeepAlive, SamplingFields, error_responses
from sidecar.api.service import Service
from sidecar.api.sse import ClientGone, until_gone
from sidecar.config import Settings
from sidecar.engine.messages import Decide, DecisionAsked, Embed, ModelInfo, Tier
from sidecar.errors import bad_request

router = routing.router(tags=["embeddings"])

MAX_DOCUMENTS = 1000
INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)


class Item(Body):
    """A text, a picture (a data URL), or both."""

    text: str | None = None
    image: str | None = None


def _form(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<item>" if isinstance(value, dict | Item) else None


Given = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Item, Tag("<item>")],
    Discriminator(_form, custom_error_type="item", custom_error_message="give a text, or an object of text and image"),
]


class RerankRequest(Body):
    """``POST /v1/rerank``."""

    model: str | None = None
    query: Given
    documents: list[Given] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    instruction: str | None = None
    keep_alive: KeepAlive | None = None
    priority: int | None = Field(default=None, ge=-(1 << 53), le=1 << 53)


@router.post(
    "/v1/rerank",
    response_model=None,
    responses={
        200: {"description": "Documents by relevance"},
        **error_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503),
    },
)
async def rerank(
    request: Request, body: RerankRequest, x_request_priority: Annotated[str | None, Header()] = None
) -> Response:
    """Order documents by how well they answer a query."""
    tier, priority = generation.tier_of(x_request_priority, SamplingFields(priority=body.priority))
    for place, one in enumerate([body.query, *body.documents]):
        text, image = _parts(one)
        if not text and not image:
            param = f"documents.{place - 1}" if place else "query"
            raise bad_request(f"{param}: give a text or an image.", param=param)
    service = service_of(request)
    try:
        with service.active():
            document = await until_gone(request, _rank(service, body, tier, priority))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)
    return JSONResponse(document, headers={PRIORITY_HEADER: tier.label})


async def _rank(service: Service, body: RerankRequest, tier: Tier, priority: int) -> dict[str, Any]:
    with service.queued(tier):
        async with service.models.use(body.model, kind=None, keep_alive=body.keep_alive) as (name, model):
            if model.ranks:
                method, (scores, tokens) = "cross-encoder", await _by_pairs(service, body, model, tier)
            elif model.kind == "embedding":
                method, (scores, tokens) = "embedding", await _by_vectors(service, body, model, tier)
            else:
                job = await asyncio.to_thread(_job, service.settings, model, body, tier, priority)
                answer = await service.engine.decide(job)
                question = Question(criteria=["yes", "no"])
                shares = (result_of(question, ["yes", "no"], s)["probabilities"]["yes"] for s in answer.scores)
                method, scores, tokens = "decision", list(shares), sum(answer.prompt_tokens)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: body.top_n]
    results = []
    for i in order:
        result: dict[str, Any] = {"index": i, "relevance_score": scores[i]}
        if body.return_documents:
            one = body.documents[i]
            result["document"] = {"text": one} if isinstance(one, str) else one.model_dump(exclude_none=True)
        results.append(result)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": name, "results": results, "usage": usage, "meta": {"method": method}}


async def _by_pairs(service: Service, body: RerankRequest, model: ModelInfo, tier: Tier) -> tuple[list[float], int]:
    if body.instruction:
        text = "instruction: a cross-encoder takes none; leave it out, or use a chat model."
        raise bad_request(text, param="instruction")
    query, *texts = _texts(body)
    answer = await service.engine.embed(Embed(id=0, path=model.path, inputs=tuple(texts), tier=tier, query=query))
    return list(struct.unpack(f"<{len(texts)}f", answer.vectors)), answer.tokens


def _texts(body: RerankRequest) -> list[str]:
    """Return the query and the documents as texts. Raises ApiError for pictures among them."""
    texts = []
    for place, one in enumerate([body.query, *body.documents]):
        text, image = _parts(one)
        param = f"documents.{place - 1}" if place else "query"
        if image:
            raise bad_request(f"{param}: this model takes no images.", param=param, code="image_input_not_supported")
        texts.append(text)
    return texts


async def _by_vectors(service: Service, body: RerankRequest, model: ModelInfo, tier: Tier) -> tuple[list[float], int]:
    texts = tuple(_texts(body))
    answer = await service.engine.embed(Embed(id=0, path=model.path, inputs=texts, tier=tier))
    count = len(answer.vectors) // 4
    flat = struct.unpack(f"<{count}f", answer.vectors)
    query, *others = [flat[i : i + answer.width] for i in range(0, count, answer.width)]
    return [_cosine(query, other) for other in others], answer.tokens


def _cosine(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    length = (sum(x * x for x in a) * sum(x * x for x in b)) ** 0.5
    return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0


def _job(settings: Settings, model: ModelInfo, body: RerankRequest, tier: Tier, priority: int) -> Decide:
    questions = []
    for place, document in enumerate(body.documents):
        chat = ChatRequest.model_validate({"messages": messages_of(body, document, vision=model.sees)})
        conversation = conversation_of(settings, model, chat)
        questions.append(DecisionAsked(name=f"documents.{place}", conversation=conversation, options=("yes", "no")))
    return Decide(id=0, path=model.path, questions=tuple(questions), tier=tier, priority=priority)


def messages_of(body: RerankRequest, document: str | Item, *, vision: bool) -> list[dict[str, Any]]:
    """Return what a reranker is asked of one document; pictures where they stand in those it was trained on."""
    instruction = body.instruction or INSTRUCTION
    (query, query_image), (text, image) = _parts(body.query), _parts(document)
    if not (vision and (query_image or image)):
        content: Any = f"<Instruct>: {instruction}\n\n<Query>: {query}\n\n<Document>: {text}"
        if query_image or image:  # refused by name where the images are looked at
            content = [{"type": "image_url", "image_url": {"url": query_image or image}}]
    else:
        content = [{"type": "text", "text": f"<Instruct>: {instruction}"}]
        for prefix, words, picture in (("<Query>:", query, query_image), ("\n<Document>:", text, image)):
            content.append({"type": "text", "text": prefix})
            content += [{"type": "image_url", "image_url": {"url": picture}}] if picture else []
            content += [{"type": "text", "text": words}] if words else []
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def _parts(one: str | Item) -> tuple[str, str]:
    return (one, "") if isinstance(one, str) else (one.text or "", one.image or "")
