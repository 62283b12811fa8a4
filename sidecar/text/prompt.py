"""From messages to a prompt's tokens. CPU work, done off the event loop and off the engine's thread."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sidecar.backend import prompts
from sidecar.backend.loader import LoadedModel
from sidecar.engine.rows import Prompt
from sidecar.errors import bad_request
from sidecar.text.images import Picture
from sidecar.text.language import Language, language_of
from sidecar.text.thinking import opens_thought
from sidecar.text.user_text import UserText

_TOOL_INTRO = (
    "You can call functions. Their signatures:\n<tools>\n{tools}\n</tools>\n"
    "To call one, answer with only\n"
    '<tool_call>\n{{"name": <function name>, "arguments": <JSON object>}}\n</tool_call>'
)
_OPERATORS = frozenset(
    ["chat_template", "tokenize", "return_messages", "num_images", "num_audios", "messages", "tools"]
)
"""What a request may not say to the template: templates come from the operator, the rest from the request's fields."""


def build_prompt(
    loaded: LoadedModel,
    messages: Sequence[dict[str, Any]],
    pictures: Sequence[Picture],
    *,
    tools: Sequence[dict[str, Any]] = (),
    instruction: str = "",
    template_kwargs: dict[str, Any] | None = None,
) -> Prompt:
    """Return the prompt of a conversation. ``instruction`` is added to the system message. Raises ApiError."""
    language = language_of(loaded)
    users = language.user_text
    prepared = [_message(m, users, keep_calls=language.knows_tools) for m in messages]
    extra: dict[str, Any] = users.broken(dict(template_kwargs or {}))
    if refused := sorted(_OPERATORS & extra.keys()):
        name = f"chat_template_kwargs.{refused[0]}"
        raise bad_request(f"{name} can't be set by a request.", param=name)
    told = users.broken(list(tools))
    if tools and language.knows_tools:
        extra["tools"] = told
    elif tools:
        listing = "\n".join(json.dumps(t["function"], ensure_ascii=False) for t in told)
        instruction = f"{_TOOL_INTRO.format(tools=listing)}\n\n{instruction}".strip()
    if instruction:
        prepared = _with_system(prepared, instruction)
    text = render(loaded, prepared, len(pictures), extra)
    return tokenize_text(loaded, text, pictures)


def render(
    loaded: LoadedModel, messages: list[dict[str, Any]], images: int, extra: dict[str, Any] | None = None
) -> str:
    """Return the conversation as the model's template writes it. Raises ApiError."""
    if loaded.can.converse and len(messages) > 1:
        raise bad_request(f"messages: send one message alone: {loaded.can.converse}.", param="messages")
    try:
        text = prompts.rendered(loaded, messages, images, extra or {})
    except Exception as exc:
        raise bad_request(
            f"messages: this model's chat template refuses this conversation ({str(exc)[:200]}).",
            param="messages",
        ) from exc
    if not isinstance(text, str):
        raise bad_request("messages: this model takes no conversations.", param="messages")
    return text


def tokenize_text(loaded: LoadedModel, text: str, pictures: Sequence[Picture] = ()) -> Prompt:
    """Return the tokens of a prompt's text, with the processor's arrays of its images. Raises ApiError."""
    language = language_of(loaded)
    special = prompts.adds_special_tokens(loaded)
    preopens = opens_thought(text, language.thinking)
    if not pictures:
        ids = loaded.tokenizer(text, add_special_tokens=special)["input_ids"]
        return Prompt(tokens=_mended(language, text, [int(i) for i in ids]), preopens_thinking=preopens)
    try:
        inputs = prompts.picture_inputs(loaded, text, [p.image for p in pictures], special=special)
        if language.user_text.mark in text:
            kept = language.user_text.kept(inputs["input_ids"][0].tolist())
            inputs = prompts.kept_columns(inputs, kept) or inputs
    except Exception as exc:
        raise bad_request(f"messages: the images can't be processed ({str(exc)[:200]}).", param="messages") from exc
    tokens: list[int] = inputs["input_ids"][0].tolist()
    digest = hashlib.sha256("".join(p.digest for p in pictures).encode()).hexdigest()
    return Prompt(tokens=tuple(tokens), inputs=inputs, media=digest, preopens_thinking=preopens)


def _mended(language: Language, text: str, tokens: list[int]) -> tuple[int, ...]:
    """Return a prompt's tokens without what broke the markers in users' texts."""
    if not text.isascii() and language.user_text.mark in text:
        return tuple(tokens[i] for i in language.user_text.kept(tokens))
    return tuple(tokens)


def _message(message: dict[str, Any], users: UserText, *, keep_calls: bool) -> dict[str, Any]:
    """Return a message in the form templates expect; calls and results as text where the template has no tools."""
    role = {"developer": "system", "function": "tool"}.get(message["role"], message["role"])
    own = role == "assistant"
    message = {k: users.broken(v, own=own) if k in ("content", "name", "tool_calls") else v for k, v in message.items()}
    content = message.get("content")
    if isinstance(content, list):
        parts = [_part(p) for p in content]
        if all(p["type"] == "text" for p in parts):
            content = "\n".join(p["text"] for p in parts)
        else:
            content = parts
    out: dict[str, Any] = {"role": role, "content": "" if content is None else content}
    calls = message.get("tool_calls")
    if calls and keep_calls:
        out["tool_calls"] = calls
    elif calls:
        out["content"] = "\n".join([*([out["content"]] if out["content"] else []), *map(_call_text, calls)])
    if role == "tool":
        if keep_calls:
            out["tool_call_id"] = message.get("tool_call_id") or ""
            if message.get("name"):
                out["name"] = message["name"]
        else:
            out = {"role": "user", "content": f"<tool_response>\n{out['content']}\n</tool_response>"}
    return out


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") in ("text", "refusal"):
        return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}
    return {"type": "image"}


def _call_text(call: dict[str, Any]) -> str:
    function = call.get("function") or {}
    arguments = function.get("arguments") or "{}"
    return f'<tool_call>\n{{"name": {json.dumps(function.get("name"))}, "arguments": {arguments}}}\n</tool_call>'


def _with_system(messages: list[dict[str, Any]], instruction: str) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] == "system" and isinstance(messages[0]["content"], str):
        joined = f"{messages[0]['content']}\n\n{instruction}".strip()
        return [{**messages[0], "content": joined}, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]
