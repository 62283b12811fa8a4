"""From the Responses API's items to the one internal request of chat."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.api import kinds
from sidecar.api.conversation import AudioPart, VideoPart
from sidecar.api.responses.schemas import (
    CallItem,
    CustomCallItem,
    InputFile,
    InputImage,
    InputText,
    Item,
    MessageItem,
    OutputItem,
    ReasoningItem,
    ReferenceItem,
    Refusal,
    ResponseRequest,
    Tool,
)
from sidecar.api.schemas import ChatRequest
from sidecar.errors import bad_request

_INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""Parameters of a custom tool as a function: its whole input is one text."""

Find = Callable[[str], dict[str, Any] | None]
"""Returns a stored item by its id."""


def items_of(body: ResponseRequest) -> list[dict[str, Any]]:
    """Return the body's input as item documents."""
    if body.input is None:
        return []
    if isinstance(body.input, str):
        return [{"type": "message", "role": "user", "content": body.input}]
    return [item.model_dump(exclude_none=True) for item in body.input]


def chat_of(body: ResponseRequest, history: Sequence[Item], find: Find) -> ChatRequest:
    """Return the chat that a body asks for, after ``history``. Raises ApiError."""
    given: Sequence[Item] = (
        [MessageItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input or []
    )
    messages = messages_of([*history, *given], find)
    if body.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    if not any(m["role"] != "system" for m in messages):
        raise bad_request("input: give a text or at least one item.", param="input")
    tools = [_tool(i, t) for i, t in enumerate(body.tools or []) if not kinds.left_out(t.type)]
    text = body.text.format if body.text is not None else None
    chat: dict[str, Any] = {
        "model": body.model,
        "keep_alive": body.keep_alive,
        "stream": body.stream,
        "messages": messages,
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "seed": body.seed,
        "priority": body.priority if body.priority is not None else 1 if body.background else None,
        "service_tier": body.service_tier,
        "tools": tools or None,
        "tool_choice": _choice(body, tools),
        "parallel_tool_calls": body.parallel_tool_calls,
        "reasoning_effort": body.reasoning.effort if body.reasoning is not None else None,
    }
    if "message.output_text.logprobs" in (body.include or []):
        chat |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if text is not None and text.type == "json_schema":
        if text.schema_ is None:
            raise bad_request("text.format.schema is missing.", param="text.format.schema")
        schema = {"name": text.name or "answer", "schema": text.schema_, "strict": text.strict}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif text is not None and text.type == "json_object":
        chat["response_format"] = {"type": "json_object"}
    return ChatRequest.model_validate(chat)


def messages_of(items: Sequence[Item], find: Find) -> list[dict[str, Any]]:
    """Return chat messages of items: an answer's thought, words and calls become one assistant message."""
    out: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        param = f"input.{place}"
        if isinstance(item, ReferenceItem):
            found = find(item.id)
            if found is None:
                raise bad_request(f"{param}: no stored item is called {item.id!r}.", param=param)
            out += messages_of([_validated(found)], find)
        elif isinstance(item, MessageItem):
            _add_message(out, item, param)
        elif isinstance(item, ReasoningItem):
            thought = "".join(p.text for p in (item.content or []) if isinstance(p, InputText))
            if thought:
                out.append({"role": "assistant", "content": "", "reasoning_content": thought})
        elif isinstance(item, CallItem | CustomCallItem):
            _add_call(out, item)
        elif isinstance(item, OutputItem):
            content = _content(item.output, param) if item.output else ""
            out.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
    return out


def _add_message(out: list[dict[str, Any]], item: MessageItem, param: str) -> None:
    content = _content(item.content, param)
    last = out[-1] if out else {}
    if item.role == "assistant" and last.get("role") == "assistant" and not last.get("content"):
        last["content"] = content  # what was thought before belongs to this answer
        return
    out.append({"role": item.role, "content": content})


def _add_call(out: list[dict[str, Any]], item: CallItem | CustomCallItem) -> None:
    arguments = item.arguments if isinstance(item, CallItem) else json.dumps({"input": item.input})
    call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": arguments}}
    if out and out[-1]["role"] == "assistant":
        out[-1].setdefault("tool_calls", []).append(call)
    else:
        out.append({"role": "assistant", "content": "", "tool_calls": [call]})


def _content(content: Any, param: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for place, part in enumerate(content):
        if isinstance(part, InputText):
            parts.append({"type": "text", "text": part.text})
        elif isinstance(part, Refusal):
            parts.append({"type": "refusal", "refusal": part.refusal})
        elif isinstance(part, InputImage):
            parts.append({"type": "image_url", "image_url": {"url": part.image_url, "detail": part.detail}})
        elif isinstance(part, InputFile):
            parts.append(_file(part, f"{param}.content.{place}"))
        elif isinstance(part, AudioPart | VideoPart):
            parts.append(part.model_dump(exclude_none=True))
    return parts


def _file(part: InputFile, param: str) -> dict[str, Any]:
    if part.file_data is None:
        what = "file_id" if part.file_id is not None else "file_url" if part.file_url is not None else "file_data"
        raise bad_request(
            f"{param}.{what}: no files are kept here and none is fetched; send the file itself, as file_data.",
            param=param,
        )
    return {"type": "file", "file": {"file_data": part.file_data, "filename": part.filename}}


def _tool(place: int, tool: Tool) -> dict[str, Any]:
    if tool.type not in ("function", "custom"):
        raise bad_request(f"tools.{place}.type: {tool.type!r} is not known; use function.", param=f"tools.{place}.type")
    if not tool.name:
        raise bad_request(f"tools.{place}.name is missing.", param=f"tools.{place}.name")
    parameters = tool.parameters if tool.type == "function" else _INPUT
    function = {"name": tool.name, "description": tool.description, "parameters": parameters, "strict": tool.strict}
    return {"type": "function", "function": function}


def _choice(body: ResponseRequest, tools: Sequence[dict[str, Any]]) -> Any:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return choice if tools or choice in (None, "required") else None
    kind = choice.get("type")
    if kind in ("function", "custom"):
        return {"type": "function", "function": {"name": str(choice.get("name"))}}
    if kind == "allowed_tools":
        names = [{"type": "function", "function": {"name": str(t.get("name"))}} for t in choice.get("tools") or []]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": names}}
    raise bad_request(f"tool_choice of type {kind!r} is not supported: only functions are called.", param="tool_choice")


def _validated(document: dict[str, Any]) -> Item:
    parsed = ResponseRequest.model_validate({"input": [document]}).input
    assert isinstance(parsed, list)
    return parsed[0]


def items_from(documents: Sequence[dict[str, Any]]) -> list[Item]:
    """Return stored item documents as items."""
    return [_validated(d) for d in documents]
