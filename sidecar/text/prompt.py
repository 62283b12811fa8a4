"""From messages to a prompt's tokens. CPU work, done off the event loop and off the engine's thread."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from typing import Any

from sidecar.backend.loader import LoadedModel
from sidecar.engine.rows import Prompt
from sidecar.errors import bad_request
from sidecar.text.images import Picture

_TOOL_INTRO = (
    "You can call functions. Their signatures:\n<tools>\n{tools}\n</tools>\n"
    "To call one, answer with only\n"
    '<tool_call>\n{{"name": <function name>, "arguments": <JSON object>}}\n</tool_call>'
)
_processing = threading.Lock()  # processors keep state between calls


def template_text(loaded: LoadedModel) -> str:
    """The model's chat template, "" without one."""
    for owner in (loaded.processor, loaded.tokenizer):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("tool_use") or template.get("default")
        if isinstance(template, str) and template:
            return template
    return ""


def knows_tools(loaded: LoadedModel) -> bool:
    """Whether the chat template itself renders tools."""
    return "tools" in template_text(loaded)


def knows_thinking(loaded: LoadedModel) -> bool:
    """Whether the model thinks before it answers."""
    text = template_text(loaded)
    return "<think>" in text or "enable_thinking" in text


def thinking_can_be_off(loaded: LoadedModel) -> bool:
    """Whether the template has a switch for thinking."""
    return "enable_thinking" in template_text(loaded)


def build_prompt(
    loaded: LoadedModel,
    messages: Sequence[dict[str, Any]],
    pictures: Sequence[Picture],
    *,
    tools: Sequence[dict[str, Any]] = (),
    instruction: str = "",
    template_kwargs: dict[str, Any] | None = None,
) -> Prompt:
    """The prompt of a conversation. ``instruction`` is added to the system message. Raises ApiError."""
    prepared = [_message(m, keep_calls=knows_tools(loaded)) for m in messages]
    extra = dict(template_kwargs or {})
    if tools and knows_tools(loaded):
        extra["tools"] = list(tools)
    elif tools:
        listing = "\n".join(json.dumps(t["function"], ensure_ascii=False) for t in tools)
        instruction = f"{_TOOL_INTRO.format(tools=listing)}\n\n{instruction}".strip()
    if instruction:
        prepared = _with_system(prepared, instruction)
    text = render(loaded, prepared, len(pictures), extra)
    return tokenize_text(loaded, text, pictures)


def render(
    loaded: LoadedModel, messages: list[dict[str, Any]], images: int, extra: dict[str, Any] | None = None
) -> str:
    """The conversation as the model's template writes it. Raises ApiError."""
    from mlx_vlm.prompt_utils import apply_chat_template

    try:
        text = apply_chat_template(loaded.processor, loaded.model.config, messages, num_images=images, **(extra or {}))
    except Exception as exc:
        raise bad_request(
            f"messages: this model's chat template refuses this conversation ({str(exc)[:200]}).",
            param="messages",
        ) from exc
    if not isinstance(text, str):
        raise bad_request("messages: this model takes no conversations.", param="messages")
    return text


def tokenize_text(loaded: LoadedModel, text: str, pictures: Sequence[Picture] = ()) -> Prompt:
    """The tokens of a prompt's text, with the processor's arrays of its images. Raises ApiError."""
    from mlx_vlm.utils import should_add_special_tokens

    special = should_add_special_tokens(loaded.model_type, loaded.processor)
    preopens = text.rstrip().endswith("<think>")
    if not pictures:
        ids = loaded.tokenizer(text, add_special_tokens=special)["input_ids"]
        return Prompt(tokens=tuple(int(i) for i in ids), preopens_thinking=preopens)
    import mlx.core as mx
    from mlx_vlm.utils import prepare_inputs

    try:
        with _processing:
            inputs = prepare_inputs(
                loaded.processor,
                images=[p.image for p in pictures],
                prompts=text,
                image_token_index=getattr(loaded.model.config, "image_token_index", None),
                add_special_tokens=special,
            )
            mx.eval([v for v in inputs.values() if isinstance(v, mx.array)])
    except Exception as exc:
        raise bad_request(f"messages: the images can't be processed ({str(exc)[:200]}).", param="messages") from exc
    tokens: list[int] = inputs["input_ids"][0].tolist()
    digest = hashlib.sha256("".join(p.digest for p in pictures).encode()).hexdigest()
    return Prompt(tokens=tuple(tokens), inputs=dict(inputs), media=digest, preopens_thinking=preopens)


def _message(message: dict[str, Any], *, keep_calls: bool) -> dict[str, Any]:
    """One message in the form templates expect; calls and their results as text where the template has no tools."""
    role = {"developer": "system", "function": "tool"}.get(message["role"], message["role"])
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
