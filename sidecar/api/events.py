"""What becomes of each event of a stream: sent, or never sent and why.

Read by the reference in docs/ and by the tests, which compare it with the types of OpenAI's and Anthropic's SDKs and
with what real streams hold. A name may end in ``*``.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

_TOOLS = "tools that a service carries out by itself are not offered here"
_SOUND = "only text is produced"

CHAT: dict[str, str] = {
    "chat.completion.chunk": "",
    "chat.completion.chunk with progress": "",
    ": comment": "",
    "error": "",
    "[DONE]": "",
}
"""By event, why it is never sent; "" for those that are."""

RESPONSES: dict[str, str] = {
    "response.created": "",
    "response.in_progress": "",
    "response.output_item.added": "",
    "response.content_part.added": "",
    "response.output_text.delta": "",
    "response.output_text.done": "",
    "response.reasoning_text.delta": "",
    "response.reasoning_text.done": "",
    "response.function_call_arguments.delta": "",
    "response.function_call_arguments.done": "",
    "response.custom_tool_call_input.delta": "",
    "response.custom_tool_call_input.done": "",
    "response.content_part.done": "",
    "response.output_item.done": "",
    "response.completed": "",
    "response.incomplete": "",
    "response.failed": "",
    "error": "",
    ": comment": "",
    "response.queued": "a response in the background says queued in its first event, response.created",
    "response.output_text.annotation.added": "answers carry no annotations; pages are cited in their words",
    "response.refusal.*": "a model's refusal is text like any other",
    "response.reasoning_summary_*": "thoughts come themselves, unsummarised",
    "response.compaction.*": "history is never summed up in silence",
    "response.audio.*": _SOUND,
    "response.image_generation_call.*": "no images are made",
    "response.code_interpreter_call*": _TOOLS,
    "response.file_search_call.*": _TOOLS,
    "response.web_search_call.*": _TOOLS,
    "response.mcp_*": _TOOLS,
    "response.shell_call_*": _TOOLS,
}

MESSAGES: dict[str, str] = {
    "message_start": "",
    "ping": "",
    "content_block_start": "",
    "content_block_delta: text_delta": "",
    "content_block_delta: thinking_delta": "",
    "content_block_delta: input_json_delta": "",
    "content_block_stop": "",
    "message_delta": "",
    "message_stop": "",
    "error": "",
    ": comment": "",
    "content_block_delta: signature_delta": "thoughts are not signed; they may be sent back as they are",
    "content_block_delta: citations_delta": "answers carry no citations; pages are cited in their words",
}

NOTES = {
    "chat.completion.chunk with progress": "before the first token, with `stream_options.include_progress`: no choices",
    ": comment": "before the first token, when it takes over a second: how far the request is, in words",
    "ping": "at the beginning; before the first token with `progress`, how far the request is",
    "[DONE]": "last",
}
"""What else is to say of events that are sent."""


def entry(table: dict[str, str], name: str) -> str | None:
    """Return the line of a table that an event falls under, None where it has none."""
    return name if name in table else next((key for key in table if fnmatchcase(name, key)), None)
