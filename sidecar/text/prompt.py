"""From messages to a prompt's tokens. CPU work, done off the event loop and off the engine's thread."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from sidecar.backend import prompts
from sidecar.backend.loader import LoadedModel
from sidecar.engine.rows import Prompt
from sidecar.errors import bad_request, check_memory
from sidecar.text import conversation
from sidecar.text.images import Picture
from sidecar.text.language import Language, language_of
from sidecar.text.sounds import Sound
from sidecar.text.thinking import opens_thought

_TOOL_INTRO = (
    "You can call functions. Their signatures:\n<tools>\n{tools}\n</tools>\n"
    "To call one, answer with only\n"
    '<tool_call>\n{{"name": <function name>, "arguments": <JSON object>}}\n</tool_call>'
)
_PYTHON = re.compile(r"\{'type': '(?:text|image)")
"""A list of parts as Python spells it: what a template writes that expects a text there."""
_OPERATORS = frozenset(
    ["chat_template", "tokenize", "return_messages", "num_images", "num_audios", "messages", "tools"]
)
"""What a request may not say to the template: templates come from the operator, the rest from the request's fields."""


def build_prompt(
    loaded: LoadedModel,
    messages: Sequence[dict[str, Any]],
    pictures: Sequence[Picture],
    *,
    sounds: Sequence[Sound] = (),
    tools: Sequence[dict[str, Any]] = (),
    instruction: str = "",
    template_kwargs: dict[str, Any] | None = None,
    template: str = "",
) -> Prompt:
    """Return the prompt of a conversation. ``instruction`` is added to the system message. Raises ApiError.

    ``template``: a chat template in place of the model's.
    """
    language = language_of(loaded, template)
    users = language.user_text
    prepared = [conversation.prepare(m, users, keep_calls=language.knows_tools) for m in messages]
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
        prepared = conversation.with_system(prepared, instruction)
    if template:
        extra["chat_template"] = template
    text = render(loaded, prepared, len(pictures), extra)
    return tokenize_text(loaded, text, pictures, sounds=sounds, template=template)


def render(
    loaded: LoadedModel, messages: list[dict[str, Any]], images: int, extra: dict[str, Any] | None = None
) -> str:
    """Return the conversation as the model's template writes it, rearranged where it must be. Raises ApiError."""
    if loaded.can.converse and len(messages) > 1:
        raise bad_request(f"messages: send one message alone: {loaded.can.converse}.", param="messages")
    refusal: Exception | None = None
    for arranged in conversation.arrangements(messages):
        try:
            text = prompts.rendered(loaded, arranged, images, extra or {})
        except Exception as exc:
            check_memory(exc)
            refusal = refusal or exc
            continue
        if not isinstance(text, str):
            raise bad_request("messages: this model takes no conversations.", param="messages")
        if not _PYTHON.search(text) or not any(isinstance(m["content"], list) for m in arranged):
            return text
        refusal = refusal or ValueError("it takes no parts in this place")
    raise bad_request(
        f"messages: this model's chat template refuses this conversation ({str(refusal)[:200]}).", param="messages"
    ) from refusal


def tokenize_text(
    loaded: LoadedModel,
    text: str,
    pictures: Sequence[Picture] = (),
    *,
    sounds: Sequence[Sound] = (),
    template: str = "",
) -> Prompt:
    """Return the tokens of a prompt's text, with the processor's arrays of its images and sounds. Raises ApiError."""
    language = language_of(loaded, template)
    special = prompts.adds_special_tokens(loaded)
    preopens = opens_thought(text, language.thinking)
    if not pictures and not sounds:
        ids = loaded.tokenizer(text, add_special_tokens=special)["input_ids"]
        return Prompt(tokens=_mended(language, text, [int(i) for i in ids]), preopens_thinking=preopens)
    try:
        samples = [s.samples for s in sounds]
        inputs = prompts.picture_inputs(loaded, text, [p.image for p in pictures], samples, special=special)
        if language.user_text.mark in text:
            kept = language.user_text.kept(inputs["input_ids"][0].tolist())
            inputs = prompts.kept_columns(inputs, kept) or inputs
    except Exception as exc:
        check_memory(exc)
        what = "images" if not sounds else "sounds" if not pictures else "images and sounds"
        raise bad_request(f"messages: the {what} can't be processed ({str(exc)[:200]}).", param="messages") from exc
    tokens: list[int] = inputs["input_ids"][0].tolist()
    digest = hashlib.sha256("".join([p.digest for p in pictures] + [s.digest for s in sounds]).encode()).hexdigest()
    return Prompt(
        tokens=tuple(tokens),
        inputs=inputs,
        media=digest,
        sent=tuple(p.sent for p in pictures),
        preopens_thinking=preopens,
    )


def picture_to_embed(loaded: LoadedModel, picture: Picture, param: str) -> dict[str, Any]:
    """Return the arrays of a picture for a model of embeddings that sees. Raises ApiError."""
    if not loaded.sees:
        text = f"{param}: this model takes no images ({loaded.can.see})."
        raise bad_request(text, param=param, code="image_input_not_supported")
    try:
        return prompts.picture_alone(loaded, picture.image)
    except Exception as exc:
        check_memory(exc)
        raise bad_request(f"{param}: the image can't be processed ({str(exc)[:200]}).", param=param) from exc


def _mended(language: Language, text: str, tokens: list[int]) -> tuple[int, ...]:
    """Return a prompt's tokens without what broke the markers in users' texts."""
    if not text.isascii() and language.user_text.mark in text:
        return tuple(tokens[i] for i in language.user_text.kept(tokens))
    return tuple(tokens)
