"""``POST /v1/chat/completions``."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import Response

from sidecar.api import files, generation, pictures, routing
from sidecar.api.answers import Answers
from sidecar.api.conversation import AllowedTools, AudioPart, AudioUrlPart, ImagePart, Message, NamedTool
from sidecar.api.guides import guide_of
from sidecar.api.replies import PlainErrors, asked_of, base_document, respond, service_of
from sidecar.api.schemas import ChatRequest, error_responses
from sidecar.config import Settings
from sidecar.engine.messages import Conversation, Generate, ModelInfo, PictureData, Piece, Scores, Tier, TokenText
from sidecar.errors import bad_request

router = routing.router(tags=["completions"])

LOW_DETAIL = 512 * 512
"""Pixels of a picture with ``detail: low``, as OpenAI says; other levels leave it to the settings and the model."""


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses={
        200: {"description": "A chat.completion document, or its chunks as server-sent events"},
        **error_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503),
    },
)
async def chat_completions(
    request: Request,
    body: ChatRequest,
    x_request_priority: Annotated[str | None, Header()] = None,
) -> Response:
    """Answer a conversation."""
    body.refuse_unsupported()
    tier, priority = generation.tier_of(x_request_priority, body)
    settings = service_of(request).settings
    return await respond(
        request,
        asked_of(body, tier),
        lambda model: chat_job(settings, model, body, tier, priority),
        lambda name: ChatForm(body, name, tier),
    )


def chat_job(settings: Settings, model: ModelInfo, body: ChatRequest, tier: Tier, priority: int) -> Generate:
    """Return the job of a body. Raises ApiError; blocking work, off the event loop."""
    return Generate(
        id=0,
        path=model.path,
        conversation=conversation_of(settings, model, body),
        samplings=generation.samplings(model, body, logprobs=bool(body.logprobs), top_logprobs=body.top_logprobs or 0),
        **generation.limits_of(model, _first(body.max_completion_tokens, body.max_tokens)),
        thinking_budget=_limit(model, body),
        stops=generation.stops_of(body.stop, model),
        tier=tier,
        priority=priority,
        salt=body.cache_salt or "",
        call_key=uuid.uuid4().hex,
    )


def as_wish(body: ChatRequest, model: ModelInfo) -> ChatRequest:
    """Return a body of another API without what it says of thinking to a model that has no choice.

    Clients of those APIs say it to every model.
    """
    if not model.thinks or (body.reasoning_effort == "none" and not model.thinking_optional):
        return body.model_copy(update={"reasoning_effort": None})
    return body


def conversation_of(settings: Settings, model: ModelInfo, body: ChatRequest, *, pictures: bool = True) -> Conversation:
    """Return what of a body makes the prompt and binds the answer. Raises ApiError; blocking work."""
    tools, forced = _tools(body)
    guide = guide_of(body)
    read = files.expanded(settings, model, body.messages, pictures=pictures)
    body = body.model_copy(update={"messages": read})
    messages = plain(body.messages)
    return Conversation(
        messages=messages if pictures else without_pictures(messages),
        pictures=_pictures(settings, model, body) if pictures else (),
        sounds=files.sounds(settings, model, body.messages) if pictures else (),
        tools=tuple(tools),
        forced=forced,
        parallel=body.parallel_tool_calls is not False and not isinstance(body.tool_choice, NamedTool),
        guide=guide,
        template=_template(model, body),
        chat_template=model.preset.get("template", ""),
    )


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def plain(messages: list[Message]) -> tuple[dict[str, Any], ...]:
    """Return messages as documents, with no more of a picture or a sound than that it is there."""
    out = []
    for message in messages:
        document = message.model_dump(exclude_none=True, exclude={"content"} if _media(message) else None)
        if isinstance(message.content, list):
            document["content"] = [_place_of(p) or p.model_dump(exclude_none=True) for p in message.content]
        out.append(document)
    return tuple(out)


def _media(message: Message) -> bool:
    return isinstance(message.content, list) and any(map(_place_of, message.content))


def _place_of(part: Any) -> dict[str, Any] | None:
    """Return what stands for a picture or a sound; None for other parts."""
    if isinstance(part, ImagePart):
        return {"type": "image_url"}
    return {"type": "audio"} if isinstance(part, AudioPart | AudioUrlPart) else None


def without_pictures(messages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """Return messages without the parts that stand for pictures and sounds."""
    for message in messages:
        if isinstance(message.get("content"), list):
            message["content"] = [p for p in message["content"] if p["type"] not in ("image_url", "audio")]
    return messages


def _template(model: ModelInfo, body: ChatRequest) -> dict[str, Any]:
    template = dict(body.chat_template_kwargs or {})
    if body.continue_final_message is not None:
        template["continue_final_message"] = body.continue_final_message
    if body.continue_final_message or body.add_generation_prompt is not None:
        template["add_generation_prompt"] = bool(body.add_generation_prompt)
    effort = _effort(model, body)
    if effort is not None:
        if not model.thinks and effort != "none":
            raise bad_request(
                "reasoning_effort is not supported: this model does not reason before it answers.",
                param="reasoning_effort",
                code="unsupported_parameter",
            )
        if effort == "none" and model.thinks and not model.thinking_optional:
            raise bad_request("reasoning_effort: this model always reasons.", param="reasoning_effort")
        template.setdefault("enable_thinking", effort != "none")
    preset = model.preset.get("reasoning_effort")
    if preset is not None and model.thinks and (preset != "none" or model.thinking_optional):
        template.setdefault("enable_thinking", preset != "none")
    return template


def _effort(model: ModelInfo, body: ChatRequest) -> str | None:
    """Return how much the model shall think, from whichever field says it."""
    if body.reasoning_effort is not None:
        return body.reasoning_effort
    asked = body.reasoning
    if asked is not None and asked.effort is not None:
        return asked.effort
    if _budget(body) == 0 and model.thinking_optional:
        return "none"
    enabled = asked.enabled if asked is not None and asked.enabled is not None else body.enable_thinking
    return None if enabled is None else "medium" if enabled else "none"


def _budget(body: ChatRequest) -> int | None:
    """Return how many tokens the model may think, from whichever field says it; None: as many as it likes."""
    asked = body.reasoning.max_tokens if body.reasoning is not None else None
    said = [n for n in (body.thinking_budget, body.thinking_token_budget, asked) if n is not None and n >= 0]
    return min(said) if said else None


def _limit(model: ModelInfo, body: ChatRequest) -> int | None:
    """Return how many tokens a thought may have: what the body says (-1: no limit), else what the profile does."""
    asked = body.reasoning.max_tokens if body.reasoning is not None else None
    said = any(n is not None for n in (body.thinking_budget, body.thinking_token_budget, asked))
    return _budget(body) if said else model.preset.get("thinking_budget")


def _pictures(settings: Settings, model: ModelInfo, body: ChatRequest) -> tuple[PictureData, ...]:
    found: list[tuple[str, ImagePart]] = []
    for i, message in enumerate(body.messages):
        if isinstance(message.content, list):
            for j, part in enumerate(message.content):
                if isinstance(part, ImagePart):
                    param = f"messages.{i}.content.{j}.image_url"
                    if message.role not in ("user", "tool"):
                        raise bad_request(f"{param}: images belong in user messages.", param=param)
                    found.append((param, part))
    if found and not model.sees:
        raise bad_request(
            "This model takes no images; choose one that does, such as qwen3-vl-4b.",
            param="messages",
            code="image_input_not_supported",
        )
    most = min(settings.max_images, model.preset.get("max_images", settings.max_images))
    if len(found) > most:
        text = f"The request has {len(found)} images; at most {most} are taken."
        raise bad_request(text, param="messages")
    side = model.preset.get("image_side", 0)
    return tuple(_picture(settings, body, param, part, side) for param, part in found)


def _picture(settings: Settings, body: ChatRequest, param: str, part: ImagePart, side: int) -> PictureData:
    """Return an image and its limits: the part's own, then the request's, then those of its level of detail."""
    options = body.mm_processor_kwargs
    least = part.min_pixels or body.min_pixels or (options and options.min_pixels) or 0
    most = part.max_pixels or body.max_pixels or (options and options.max_pixels) or 0
    if part.detail == "low" and not (least or most):
        most = LOW_DETAIL
    if most and least > most:
        raise bad_request(f"min_pixels ({least}) is above max_pixels ({most}).", param="min_pixels")
    data = pictures.fetch(part.url, settings, param=param)
    return PictureData(param=param, data=data, side=side, min_pixels=least, max_pixels=most)


def _tools(body: ChatRequest) -> tuple[list[dict[str, Any]], bool]:
    """Return the tools in play and whether one must be called."""
    tools = [t.model_dump(exclude_none=True) for t in body.tools or []]
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        tools = [t for t in tools if t["function"]["name"] == choice.function.name]
        if not tools:
            raise bad_request(
                f"tool_choice names {choice.function.name!r}, which is not in tools.", param="tool_choice"
            )
        return tools, True
    if isinstance(choice, AllowedTools):
        allowed = {t.function.name for t in choice.allowed_tools.tools}
        missing = sorted(allowed - {t["function"]["name"] for t in tools})
        if missing:
            raise bad_request(f"tool_choice allows {missing[0]!r}, which is not in tools.", param="tool_choice")
        tools = [t for t in tools if t["function"]["name"] in allowed]
        return tools, choice.allowed_tools.mode == "required"
    if choice == "required":
        if not tools:
            raise bad_request("tool_choice is required, and there are no tools.", param="tool_choice")
        return tools, True
    return ([], False) if choice == "none" else (tools, False)


class ChatForm(PlainErrors):
    """OpenAI's chat.completion documents."""

    def __init__(self, body: ChatRequest, name: str, tier: Tier) -> None:
        self._choices = body.n or 1
        self._logprobs = bool(body.logprobs)
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._base = {**base_document("chatcmpl", name, tier), "object": "chat.completion.chunk"}

    def whole(self, answers: Answers) -> dict[str, Any]:
        """Return the chat.completion document."""
        choices = []
        for i, answer in enumerate(answers.choices):
            message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
            if answer.reasoning:
                message["reasoning_content"] = answer.reasoning
            if answer.tool_calls:
                message["tool_calls"] = answer.tool_calls
                message["content"] = answer.content or None
            entries = [_entry(s) for s in answer.scores]
            logprobs = {"content": entries, "refusal": None} if self._logprobs else None
            choice = {"index": i, "message": message, "logprobs": logprobs, "finish_reason": answer.finish}
            choices.append(choice)
        return {**self._base, "object": "chat.completion", "choices": choices, "usage": answers.usage()}

    def opening(self, answers: Answers) -> list[dict[str, Any]]:
        """Return a chunk with the role for every choice."""
        return [self._chunk(i, {"role": "assistant", "content": ""}) for i in range(self._choices)]

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunks of a piece: what it says, then how it ends."""
        delta: dict[str, Any] = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.content:
            delta["content"] = piece.content
        if piece.tool_calls:
            delta["tool_calls"] = list(piece.tool_calls)
        out = []
        if delta or piece.scores:
            out.append(self._chunk(piece.index, delta, scores=piece.scores))
        if piece.finish is not None:
            out.append(self._chunk(piece.index, {}, finish=piece.finish))
        return out

    def closing(self, answers: Answers) -> list[dict[str, Any]]:
        """Return the chunk with the usage where it was asked for."""
        if not self._usage:
            return []
        return [{**self._base, "choices": [], "usage": answers.usage()}]

    def _chunk(
        self, index: int, delta: dict[str, Any], *, finish: str | None = None, scores: tuple[Scores, ...] = ()
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish}
        if self._logprobs:
            choice["logprobs"] = {"content": [_entry(s) for s in scores], "refusal": None} if scores else None
        document: dict[str, Any] = {**self._base, "choices": [choice]}
        if self._usage:
            document["usage"] = None
        return document


def _entry(scores: Scores) -> dict[str, Any]:
    """Return OpenAI's log-probability document of one token."""

    def one(token: TokenText) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}

    return {**one(scores.token), "top_logprobs": [one(t) for t in scores.top]}
