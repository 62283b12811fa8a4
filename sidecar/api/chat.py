"""``POST /v1/chat/completions``."""

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
    logprob_entry,
    new_id,
    now,
    pieces,
    service_of,
    stops_of,
)
from sidecar.api.schemas import ChatRequest, ImagePart, NamedTool, error_responses
from sidecar.api.service import Service
from sidecar.api.sse import ClientGone, EventStream, until_gone
from sidecar.backend.loader import LoadedModel
from sidecar.engine.grammar import Constraint, GrammarError
from sidecar.errors import bad_request
from sidecar.text import images
from sidecar.text.answer import Answer, ForcedCalls, ReasoningSplitter, ToolSplitter, calls_grammar
from sidecar.text.images import Picture
from sidecar.text.prompt import build_prompt, knows_thinking, knows_tools, template_text, thinking_can_be_off

router = APIRouter(tags=["completions"])


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses={
        200: {"description": "A chat.completion document, or its chunks as server-sent events"},
        **error_responses(400, 401, 403, 404, 408, 413, 422, 429, 500, 503),
    },
)
async def chat_completions(
    request: Request,
    body: ChatRequest,
    x_request_priority: Annotated[str | None, Header()] = None,
) -> Response:
    """Answer a conversation."""
    body.refuse_unsupported()
    service = service_of(request)
    tier = generation.tier_of(x_request_priority, body)
    async with AsyncExitStack() as stack:
        stack.enter_context(service.active())
        try:
            work = _begin(stack, service, body, tier)
            name, loaded, plan, iterator = await until_gone(request, work)
            reply = _Reply(body, name, loaded, plan)
            headers = {PRIORITY_HEADER: plan.tier.label}
            if not body.stream:
                document = await until_gone(request, reply.whole(iterator))
                return JSONResponse(document, headers=headers)
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
    stack: AsyncExitStack, service: Service, body: ChatRequest, tier: tuple[Any, int]
) -> tuple[str, LoadedModel, Plan, AsyncIterator[Piece]]:
    name, loaded = await stack.enter_async_context(service.use(body.model, keep_alive=body.keep_alive))
    plan = await asyncio.to_thread(_plan, service, loaded, body, tier)
    iterator = await stack.enter_async_context(pieces(service, loaded, plan))
    return name, loaded, plan, iterator


def _plan(service: Service, loaded: LoadedModel, body: ChatRequest, tier: tuple[Any, int]) -> Plan:
    """Everything that can be refused is refused here; blocking work, off the event loop."""
    thinks = knows_thinking(loaded)
    template = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        if not thinks and body.reasoning_effort != "none":
            raise bad_request(
                "reasoning_effort is not supported: this model does not reason before it answers.",
                param="reasoning_effort",
                code="unsupported_parameter",
            )
        if body.reasoning_effort == "none" and thinks and not thinking_can_be_off(loaded):
            raise bad_request("reasoning_effort: this model always reasons.", param="reasoning_effort")
        template.setdefault("enable_thinking", body.reasoning_effort != "none")
    pictures = _pictures(service, loaded, body)
    tools, forced = _tools(body)
    if forced and body.response_format is not None and body.response_format.type != "text":
        raise bad_request("response_format and a required tool call exclude each other.", param="response_format")
    instruction = _instruction(body, forced)
    prompt = build_prompt(
        loaded,
        [m.model_dump(exclude_none=True) for m in body.messages],
        pictures,
        tools=tools,
        instruction=instruction,
        template_kwargs=template,
    )
    asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    budget = generation.token_budget(service, loaded, prompt, asked)
    samplings = generation.samplings(loaded, body, logprobs=bool(body.logprobs), top_logprobs=body.top_logprobs or 0)
    one = body.parallel_tool_calls is False
    constraint = _constraint(loaded, body, tools, forced, prompt.preopens_thinking)
    return Plan(
        prompt=prompt,
        max_tokens=budget,
        samplings=samplings,
        tier=tier[0],
        priority=tier[1],
        answers=tuple(_answer(loaded, body, tools, forced, thinks, prompt.preopens_thinking, one) for _ in samplings),
        constraints=tuple(constraint.copy() if constraint else None for _ in samplings),
    )


def _pictures(service: Service, loaded: LoadedModel, body: ChatRequest) -> list[Picture]:
    urls: list[tuple[str, str]] = []
    for i, message in enumerate(body.messages):
        if isinstance(message.content, list):
            for j, part in enumerate(message.content):
                if isinstance(part, ImagePart):
                    param = f"messages.{i}.content.{j}.image_url"
                    if message.role not in ("user", "tool"):
                        raise bad_request(f"{param}: images belong in user messages.", param=param)
                    urls.append((param, part.image_url.url))
    if urls and not loaded.sees:
        raise bad_request(
            "This model takes no images; choose one that does, such as qwen3-vl-4b.",
            param="messages",
            code="image_input_not_supported",
        )
    limit = service.settings.max_images
    if len(urls) > limit:
        raise bad_request(f"The request has {len(urls)} images; at most {limit} are taken.", param="messages")
    return [
        images.decode(images.fetch(url, service.settings, param=param), service.settings, param=param)
        for param, url in urls
    ]


def _tools(body: ChatRequest) -> tuple[list[dict[str, Any]], bool]:
    """The tools in play and whether one must be called."""
    tools = [t.model_dump(exclude_none=True) for t in body.tools or []]
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        tools = [t for t in tools if t["function"]["name"] == choice.function.name]
        if not tools:
            raise bad_request(
                f"tool_choice names {choice.function.name!r}, which is not in tools.", param="tool_choice"
            )
        return tools, True
    if choice == "required":
        if not tools:
            raise bad_request("tool_choice is required, and there are no tools.", param="tool_choice")
        return tools, True
    return ([], False) if choice == "none" else (tools, False)


def _instruction(body: ChatRequest, forced: bool) -> str:
    if forced:
        return 'Answer only with function calls, each as {"name": ..., "arguments": {...}}.'
    form = body.response_format
    if form is not None and form.type == "json_object":
        return "Answer with a JSON object."
    return ""


def _constraint(
    loaded: LoadedModel, body: ChatRequest, tools: list[dict[str, Any]], forced: bool, preopened: bool
) -> Constraint | None:
    form = body.response_format
    after = _think_end(loaded) if preopened else None
    try:
        if forced:
            grammar = calls_grammar(tools, parallel=body.parallel_tool_calls is not False)
            return loaded.grammars.lark(grammar, start_after=after)
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return loaded.grammars.json_schema(None, start_after=after)
        schema = form.json_schema.schema_ if form.json_schema else None
        if schema is None:
            raise bad_request("response_format.json_schema.schema is missing.", param="response_format")
        if isinstance(schema, bool):
            raise bad_request("response_format.json_schema.schema: give an object.", param="response_format")
        return loaded.grammars.json_schema(schema, start_after=after)
    except GrammarError as exc:
        param = "tools" if forced else "response_format"
        raise bad_request(f"{param}: this schema can't be enforced ({str(exc)[:300]}).", param=param) from exc


def _think_end(loaded: LoadedModel) -> int | None:
    ids = loaded.tokenizer.encode(ReasoningSplitter.END, add_special_tokens=False)
    return int(ids[-1]) if ids else None


def _answer(
    loaded: LoadedModel,
    body: ChatRequest,
    tools: list[dict[str, Any]],
    forced: bool,
    thinks: bool,
    preopened: bool,
    one: bool,
) -> Answer:
    from mlx_vlm.tokenizer_utils import make_streaming_detokenizer

    reader: ToolSplitter | ForcedCalls | None = None
    if forced:
        reader = ForcedCalls(tools)
    elif tools:
        reader = ToolSplitter(_parser(loaded), tools, one=one)
    return Answer(
        make_streaming_detokenizer(loaded.processor),
        stops=stops_of(body.stop),
        thinking=thinks,
        preopened=preopened,
        tools=reader,
    )


def _parser(loaded: LoadedModel) -> Any:
    """The parser of the model's own tool markup; JSON in ``<tool_call>`` where it has none."""
    from mlx_vlm.tools.registry import _infer_tool_parser, load_tool_module

    name = _infer_tool_parser(template_text(loaded)) if knows_tools(loaded) else None
    return load_tool_module(name or "json_tools")


class _Reply:
    """Puts pieces into OpenAI's documents."""

    def __init__(self, body: ChatRequest, name: str, loaded: LoadedModel, plan: Plan) -> None:
        self._body = body
        self._loaded = loaded
        self._plan = plan
        self._logprobs = bool(body.logprobs)
        self._base = {
            "id": new_id("chatcmpl"),
            "created": now(),
            "model": name,
            "service_tier": SERVICE_TIERS[plan.tier],
            "system_fingerprint": None,
        }

    async def whole(self, iterator: AsyncIterator[Piece]) -> dict[str, Any]:
        """The chat.completion document."""
        finishes: dict[int, str] = {}
        entries: dict[int, list[dict[str, Any]]] = {}
        async for piece in iterator:
            if self._logprobs:
                entries.setdefault(piece.index, []).extend(self._entries(piece))
            if piece.finish is not None:
                finishes[piece.index] = piece.finish
        choices = []
        for i, answer in enumerate(self._plan.answers):
            message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
            if answer.reasoning:
                message["reasoning_content"] = answer.reasoning
            if answer.tool_calls:
                message["tool_calls"] = answer.tool_calls
                message["content"] = answer.content or None
            choices.append(
                {
                    "index": i,
                    "message": message,
                    "logprobs": {"content": entries.get(i, []), "refusal": None} if self._logprobs else None,
                    "finish_reason": finishes[i],
                }
            )
        return {
            **self._base,
            "object": "chat.completion",
            "choices": choices,
            "usage": generation.usage(self._plan),
        }

    async def stream(
        self,
        iterator: AsyncIterator[Piece],
        head: tuple[Any, asyncio.Future[Any] | None],
    ) -> AsyncIterator[dict[str, Any]]:
        """The chat.completion.chunk documents."""
        options = self._body.stream_options
        with_usage = bool(options and options.include_usage)
        for i in range(len(self._plan.answers)):
            yield self._chunk(i, {"role": "assistant", "content": ""}, with_usage=with_usage)
        piece, pending = head
        if pending is not None:
            piece = await pending
        while piece is not None:
            for chunk in self._chunks(piece, with_usage):
                yield chunk
            piece = await anext(iterator, None)
        if with_usage:
            yield {
                **self._base,
                "object": "chat.completion.chunk",
                "choices": [],
                "usage": generation.usage(self._plan),
            }

    def _chunks(self, piece: Piece, with_usage: bool) -> list[dict[str, Any]]:
        delta: dict[str, Any] = {}
        if piece.delta.reasoning:
            delta["reasoning_content"] = piece.delta.reasoning
        if piece.delta.content:
            delta["content"] = piece.delta.content
        if piece.delta.tool_calls:
            delta["tool_calls"] = piece.delta.tool_calls
        entries = self._entries(piece) if self._logprobs else []
        out = []
        if delta or entries:
            out.append(self._chunk(piece.index, delta, entries=entries, with_usage=with_usage))
        if piece.finish is not None:
            out.append(self._chunk(piece.index, {}, finish=piece.finish, with_usage=with_usage))
        return out

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        finish: str | None = None,
        entries: list[dict[str, Any]] | None = None,
        with_usage: bool = False,
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish}
        if self._logprobs:
            choice["logprobs"] = {"content": entries, "refusal": None} if entries else None
        document: dict[str, Any] = {**self._base, "object": "chat.completion.chunk", "choices": [choice]}
        if with_usage:
            document["usage"] = None
        return document

    def _entries(self, piece: Piece) -> list[dict[str, Any]]:
        top = self._body.top_logprobs or 0
        return [logprob_entry(self._loaded, token, top) for token in piece.tokens]
