"""From the Messages API's blocks to the one internal request of chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sidecar.api.messages.schemas import (
    Base64Source,
    Block,
    ContentSource,
    CountRequest,
    DocumentBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    PlainSource,
    TextBlock,
    ThinkingBlock,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
)
from sidecar.api.schemas import ChatRequest
from sidecar.errors import bad_request


def chat_of(body: CountRequest) -> ChatRequest:
    """Return the chat that a body asks for. Raises ApiError."""
    messages: list[dict[str, Any]] = []
    if body.system:
        text = body.system if isinstance(body.system, str) else "\n\n".join(b.text for b in body.system)
        messages.append({"role": "system", "content": text})
    for place, message in enumerate(body.messages):
        messages += _messages_of(message, f"messages.{place}")
    tools = [
        {
            "type": "function",
            "function": {
                "name": t.name,
                "description": t.description,
                "parameters": t.input_schema,
                "strict": t.strict,
            },
        }
        for t in body.tools or []
        if t.type in (None, "custom")
    ]
    choice, parallel = _choice(body.tool_choice, bool(tools))
    last = messages[-1]
    chat: dict[str, Any] = {
        "model": body.model,
        "messages": messages,
        # An answer begun by the client is gone on with, without a word of its own before it.
        "continue_final_message": True if last["role"] == "assistant" and last["content"] else None,
        "tools": tools or None,
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
        "reasoning_effort": _effort(body),
    }
    if body.output_config is not None and body.output_config.format is not None:
        schema = {"name": "answer", "schema": body.output_config.format.schema_, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    if isinstance(body, MessagesRequest):
        chat |= {
            "max_tokens": body.max_tokens,
            "stop": body.stop_sequences,
            "stream": body.stream,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "priority": body.priority,
        }
    return ChatRequest.model_validate(chat)


def _effort(body: CountRequest) -> str | None:
    if body.thinking is None:
        return None
    return "none" if body.thinking.type == "disabled" else "medium"


def _choice(choice: ToolChoice | None, tools: bool) -> tuple[Any, bool | None]:
    """Return OpenAI's ``tool_choice`` and ``parallel_tool_calls``."""
    if choice is None:
        return None, None
    parallel = False if choice.disable_parallel_tool_use else None
    if choice.type == "tool":
        if not choice.name:
            raise bad_request("tool_choice.name is missing.", param="tool_choice.name")
        return {"type": "function", "function": {"name": choice.name}}, parallel
    words = {"auto": "auto" if tools else None, "any": "required", "none": "none"}
    return words[choice.type], parallel


def _messages_of(message: Message, param: str) -> list[dict[str, Any]]:
    """Return chat messages of one message: results of calls go before what else the user says."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return [_answer(message.content)]
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for place, block in enumerate(message.content):
        here = f"{param}.content.{place}"
        if isinstance(block, ToolResultBlock):
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block, here)})
        elif isinstance(block, ToolUseBlock | ThinkingBlock):
            raise bad_request(f"{here}: blocks of type {block.type} belong in assistant messages.", param=here)
        else:
            parts += _parts(block, here)
    return [*results, *([{"role": message.role, "content": parts}] if parts else [])]


def _answer(blocks: Sequence[Block]) -> dict[str, Any]:
    text = "".join(b.text for b in blocks if isinstance(b, TextBlock))
    thought = "".join(b.thinking for b in blocks if isinstance(b, ThinkingBlock))
    calls = [
        {"id": b.id, "type": "function", "function": {"name": b.name, "arguments": json.dumps(b.input)}}
        for b in blocks
        if isinstance(b, ToolUseBlock)
    ]
    out: dict[str, Any] = {"role": "assistant", "content": text}
    return out | ({"reasoning_content": thought} if thought else {}) | ({"tool_calls": calls} if calls else {})


def _result(block: ToolResultBlock, param: str) -> str | list[dict[str, Any]]:
    if block.content is None or isinstance(block.content, str):
        text = block.content or ""
        return f"Error: {text}" if block.is_error and not text.lower().startswith("error") else text
    parts: list[dict[str, Any]] = [{"type": "text", "text": "Error:"}] if block.is_error else []
    for place, inner in enumerate(block.content):
        parts += _parts(inner, f"{param}.content.{place}")
    return parts


def _parts(block: Any, param: str) -> list[dict[str, Any]]:
    if isinstance(block, TextBlock):
        return [{"type": "text", "text": block.text}]
    if isinstance(block, ImageBlock):
        return [{"type": "image_url", "image_url": {"url": _address(block.source)}}]
    if isinstance(block, DocumentBlock):
        return _document(block, param)
    return []  # a thought that nobody can read


def _document(block: DocumentBlock, param: str) -> list[dict[str, Any]]:
    name = block.title or "document"
    note = [{"type": "text", "text": block.context}] if block.context else []
    source = block.source
    if isinstance(source, PlainSource):
        return [*note, {"type": "text", "text": f"[{name}]\n{source.data}"}]
    if isinstance(source, ContentSource):
        given = source.content if isinstance(source.content, list) else [{"type": "text", "text": source.content}]
        parsed = ToolResultBlock.model_validate({"type": "tool_result", "tool_use_id": "", "content": given})
        inner = _result(parsed, param)
        assert isinstance(inner, list)
        return [*note, {"type": "text", "text": f"[{name}]"}, *inner]
    return [*note, {"type": "file", "file": {"file_data": _address(source), "filename": name}}]


def _address(source: Base64Source | UrlSource) -> str:
    if isinstance(source, UrlSource):
        return source.url
    return f"data:{source.media_type};base64,{source.data}"
