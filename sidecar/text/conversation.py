"""Conversations in the form templates expect, and rearranged for those that refuse them.

Templates are written for one shape of conversation: a system message at the front, user and assistant in turns. Clients
send others: a second system message in the middle, two questions in a row, an answer first. A template that minds says
so, and then the same messages are offered in the next arrangement, each closer to the one shape, none losing a word:

1. as they came;
2. system messages gathered at the front, in their order;
3. and neighbours of one role joined into one message;
4. and a system message put before the first user's words, for models that know no system role;
5. and what tools gave told in the user's words, for models that know no tools.

What a template doesn't mind is never touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sidecar.text.user_text import UserText

Messages = list[dict[str, Any]]


def prepare(message: dict[str, Any], users: UserText, *, keep_calls: bool) -> dict[str, Any]:
    """Return a message in the form templates expect; calls and results as text where the template has no tools."""
    role = {"developer": "system", "function": "tool"}.get(message["role"], message["role"])
    own = role == "assistant"
    message = {k: users.broken(v, own=own) if k in ("content", "name", "tool_calls") else v for k, v in message.items()}
    content = message.get("content")
    if isinstance(content, list):
        content = _joined([_part(p) for p in content])
    out: dict[str, Any] = {"role": role, "content": "" if content is None else content}
    calls = message.get("tool_calls")
    if calls and keep_calls:
        out["tool_calls"] = calls
    elif calls:
        out["content"] = "\n".join([*([out["content"]] if out["content"] else []), *map(_call_text, calls)])
    if role == "tool" and keep_calls:
        out["tool_call_id"] = message.get("tool_call_id") or ""
        if message.get("name"):
            out["name"] = message["name"]
    elif role == "tool":
        out = _told(out)
    return out


def with_system(messages: Messages, instruction: str) -> Messages:
    """Return messages with an instruction at the end of the system message, or as one."""
    if messages and messages[0]["role"] == "system" and isinstance(messages[0]["content"], str):
        joined = f"{messages[0]['content']}\n\n{instruction}".strip()
        return [{**messages[0], "content": joined}, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]


def arrangements(messages: Messages) -> Iterator[Messages]:
    """Yield the conversation as it came, then in ever plainer arrangements, each only where it differs."""
    yield messages
    last = messages
    for step in (_systems_first, _neighbours_joined, _without_system, _tools_told):
        found = step(last)
        if found != last:
            yield found
            last = found


def _systems_first(messages: Messages) -> Messages:
    systems = [m["content"] for m in messages if m["role"] == "system"]
    if not systems:
        return messages
    others = [m for m in messages if m["role"] != "system"]
    return [{"role": "system", "content": _added(systems)}, *others]


def _neighbours_joined(messages: Messages) -> Messages:
    out: Messages = []
    for message in messages:
        before = out[-1] if out else None
        if before is not None and before["role"] == message["role"] != "tool" and not before.get("tool_calls"):
            out[-1] = {**before, **message, "content": _added([before["content"], message["content"]])}
        else:
            out.append(message)
    return out


def _without_system(messages: Messages) -> Messages:
    if not messages or messages[0]["role"] != "system":
        return messages
    system, rest = messages[0], messages[1:]
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": _added([system["content"], rest[0]["content"]])}, *rest[1:]]
    return [{"role": "user", "content": system["content"]}, *rest]


def _tools_told(messages: Messages) -> Messages:
    if not any(m["role"] == "tool" or m.get("tool_calls") for m in messages):
        return messages
    told: Messages = []
    for message in messages:
        if message["role"] == "tool":
            message = _told({"role": "tool", "content": message["content"]})
        elif message.get("tool_calls"):
            calls = "\n".join(map(_call_text, message["tool_calls"]))
            message = {"role": message["role"], "content": _added([message["content"], calls])}
        told.append(message)
    return _neighbours_joined(told)


def _told(message: dict[str, Any]) -> dict[str, Any]:
    """Return what a tool gave as something the user says, its pictures in their places."""
    content = message["content"]
    if isinstance(content, str):
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    begin, end = ({"type": "text", "text": text} for text in ("<tool_response>\n", "\n</tool_response>"))
    return {"role": "user", "content": [begin, *content, end]}


def _added(contents: list[Any]) -> Any:
    """Return several contents as one: texts as paragraphs, parts in their order."""
    contents = [c for c in contents if c]
    if all(isinstance(c, str) for c in contents):
        return "\n\n".join(contents)
    return [p for c in contents for p in ([{"type": "text", "text": c}] if isinstance(c, str) else c)]


def _joined(parts: list[dict[str, Any]]) -> Any:
    return "\n".join(p["text"] for p in parts) if all(p["type"] == "text" for p in parts) else parts


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") in ("text", "refusal"):
        return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}
    return {"type": "audio"} if part.get("type") == "audio" else {"type": "image"}


def _call_text(call: dict[str, Any]) -> str:
    function = call.get("function") or {}
    arguments = function.get("arguments") or "{}"
    return f'<tool_call>\n{{"name": {json.dumps(function.get("name"))}, "arguments": {arguments}}}\n</tool_call>'
