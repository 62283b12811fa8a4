"""``POST /v1/completions``: raw text, no chat template."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from sidecar.api import generation
from sidecar.api.generation import Piece, Plan
from sidecar.api.replies import (
    CLIENT_CLOSED,
    HEADERS_AFTER,
    PRIORITY_HEADER,
    SERVICE_TIERS,
    first,
    log,
    new_id,
    now,
    pieces,
    service_of,
    stops_of,
    token_text,
)
from sidecar.api.schemas import MAX_CHOICES, CompletionRequest, error_responses
from sidecar.api.service import Service
from sidecar.api.sse import ClientGone, EventStream, until_gone
from sidecar.backend.loader import LoadedModel
from sidecar.engine.messages import Prompt
from sidecar.errors import bad_request
from sidecar.text.answer import Answer
from sidecar.text.prompt import tokenize_text

router = APIRouter(tags=["completions"])


@router.post(
    "/v1/completions",
    response_model=None,
    responses={
        200: {"description": "A text_completion document, or its chunks as server-sent events"},
        **error_responses(400, 401, 403, 404, 408, 413, 422, 429, 500, 503),
    },
)
async def completions(
    request: Request, body: CompletionRequest, x_request_priority: Annotated[str | None, Header()] = None
) -> Response:
    """Continue texts."""
    body.refuse_unsupported()
    service = service_of(request)
    tier = generation.tier_of(x_request_priority, body)
    async with AsyncExitStack() as stack:
        stack.enter_context(service.active())
        try:
            name, loaded, plans = await until_gone(request, _begin(stack, service, body, tier))
            reply = _Reply(body, name, loaded, plans)
            iterator = reply.pieces(service)
            stack.push_async_callback(iterator.aclose)  # type: ignore[attr-defined]
            headers = {PRIORITY_HEADER: tier[0].label}
            if not body.stream:
                return JSONResponse(await until_gone(request, reply.whole(iterator)), headers=headers)
            head = await until_gone(request, first(iterator, HEADERS_AFTER))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED)
        held = stack.pop_all()
        return EventStream(
            reply.stream(iterator, head),
            held=held,
            headers=headers,
            on_error=lambda exc: log.error("a stream ended by an error: %s", exc),
        )


async def _begin(
    stack: AsyncExitStack, service: Service, body: CompletionRequest, tier: tuple[Any, int]
) -> tuple[str, LoadedModel, list[Plan]]:
    name, loaded = await stack.enter_async_context(service.use(body.model, keep_alive=body.keep_alive))
    return name, loaded, await asyncio.to_thread(_plans, service, loaded, body, tier)


def _plans(service: Service, loaded: LoadedModel, body: CompletionRequest, tier: tuple[Any, int]) -> list[Plan]:
    from mlx_vlm.tokenizer_utils import make_streaming_detokenizer

    prompts = _prompts(loaded, body)
    samplings = generation.samplings(loaded, body, logprobs=body.logprobs is not None, top_logprobs=body.logprobs or 0)
    if len(prompts) * len(samplings) > MAX_CHOICES * 4:
        raise bad_request(f"prompt: at most {MAX_CHOICES * 4} answers are given at once.", param="prompt")
    stops = stops_of(body.stop)
    asked = body.max_tokens if body.max_tokens is not None else 16  # OpenAI's default here
    return [
        Plan(
            prompt=prompt,
            max_tokens=generation.token_budget(service, loaded, prompt, asked),
            samplings=samplings,
            tier=tier[0],
            priority=tier[1],
            answers=tuple(Answer(make_streaming_detokenizer(loaded.processor), stops=stops) for _ in samplings),
            constraints=(None,) * len(samplings),
        )
        for prompt in prompts
    ]


def _prompts(loaded: LoadedModel, body: CompletionRequest) -> list[Prompt]:
    given: Any = body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise bad_request("prompt: give at least one.", param="prompt")
    out = []
    size = len(loaded.tokenizer)
    for one in given:
        if isinstance(one, str):
            out.append(tokenize_text(loaded, one))
        elif all(0 <= t < size for t in one):
            out.append(Prompt(tokens=tuple(one)))
        else:
            raise bad_request(f"prompt: token ids are between 0 and {size - 1}.", param="prompt")
    return out


class _Reply:
    """Puts pieces into OpenAI's documents; choices of prompt p have indexes p n to p n + n - 1."""

    def __init__(self, body: CompletionRequest, name: str, loaded: LoadedModel, plans: list[Plan]) -> None:
        self._body = body
        self._loaded = loaded
        self._plans = plans
        self._n = body.n or 1
        self._offsets: dict[int, int] = {}
        self._base = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": now(),
            "model": name,
            "service_tier": SERVICE_TIERS[plans[0].tier],
            "system_fingerprint": None,
        }

    async def pieces(self, service: Service) -> AsyncIterator[tuple[int, Piece]]:
        """Pieces of all prompts with their choice's index."""
        for p, plan in enumerate(self._plans):
            async with pieces(service, self._loaded, plan) as iterator:
                async for piece in iterator:
                    yield p * self._n + piece.index, piece

    async def whole(self, iterator: AsyncIterator[tuple[int, Piece]]) -> dict[str, Any]:
        """The text_completion document."""
        count = len(self._plans) * self._n
        texts = [self._echo(i) for i in range(count)]
        finishes = [""] * count
        logprobs: list[dict[str, Any] | None] = [None] * count
        async for index, piece in iterator:
            texts[index] += piece.delta.content
            logprobs[index] = _merged(logprobs[index], self._logprobs(index, piece))
            if piece.finish is not None:
                finishes[index] = piece.finish
        choices = [
            {"index": i, "text": texts[i], "logprobs": logprobs[i], "finish_reason": finishes[i]} for i in range(count)
        ]
        return {**self._base, "choices": choices, "usage": self._usage()}

    async def stream(
        self,
        iterator: AsyncIterator[tuple[int, Piece]],
        head: tuple[Any, asyncio.Future[Any] | None],
    ) -> AsyncIterator[dict[str, Any]]:
        """The chunks."""
        if self._body.echo:
            for i in range(len(self._plans) * self._n):
                yield self._chunk(i, self._echo(i), None, None)
        item, pending = head
        if pending is not None:
            item = await pending
        while item is not None:
            index, piece = item
            logprobs = self._logprobs(index, piece)
            if piece.delta.content or logprobs or piece.finish:
                yield self._chunk(index, piece.delta.content, logprobs, piece.finish)
            item = await anext(iterator, None)
        options = self._body.stream_options
        if options and options.include_usage:
            yield {**self._base, "choices": [], "usage": self._usage()}

    def _chunk(self, index: int, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return {**self._base, "choices": [choice]}

    def _echo(self, index: int) -> str:
        if not self._body.echo:
            return ""
        given: Any = self._body.prompt
        if isinstance(given, str):
            return given
        tokens = self._plans[index // self._n].prompt.tokens
        one = given[index // self._n] if not isinstance(given[0], int) else given
        return one if isinstance(one, str) else str(self._loaded.tokenizer.decode(list(tokens)))

    def _logprobs(self, index: int, piece: Piece) -> dict[str, Any] | None:
        if self._body.logprobs is None or not piece.tokens:
            return None
        out: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in piece.tokens:
            text, _ = token_text(self._loaded, token.id)
            at = self._offsets.get(index, len(self._echo(index)))
            out["tokens"].append(text)
            out["token_logprobs"].append(token.logprob)
            out["top_logprobs"].append({token_text(self._loaded, i)[0]: v for i, v in token.top})
            out["text_offset"].append(at)
            self._offsets[index] = at + len(text)
        return out

    def _usage(self) -> dict[str, Any]:
        parts = [generation.usage(plan) for plan in self._plans]
        total = parts[0]
        for part in parts[1:]:
            for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
                total[key] += part[key]
            total["prompt_tokens_details"]["cached_tokens"] += part["prompt_tokens_details"]["cached_tokens"]
        return total


def _merged(a: dict[str, Any] | None, b: dict[str, Any] | None) -> dict[str, Any] | None:
    if a is None or b is None:
        return a or b
    return {key: a[key] + b[key] for key in a}
