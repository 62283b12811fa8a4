"""What becomes of each kind of part, item, block and tool: taken, left out or refused, and why.

Read by the reference in docs/ and by a test, which compares it with the types of OpenAI's and Anthropic's SDKs and with
what the schemas take. A name may end in ``*``.
"""

from __future__ import annotations

from sidecar.api.events import entry

_HOSTED = "left out: a service would carry it out by itself, and here nothing does"
_RECORD = "refused: it is the record of a tool that a service carried out"

PARTS: dict[str, str] = {
    "text": "",
    "refusal": "",
    "image_url": "",
    "video_url": "",
    "input_audio": "",
    "audio_url": "",
    "file": "",
}
"""Parts of messages of chat; "" where they are taken, else what becomes of them."""

CHAT_TOOLS: dict[str, str] = {
    "function": "",
    "custom": "refused: offer a function, or use /v1/responses",
}

INPUTS: dict[str, str] = {
    "input_text": "",
    "input_image": "",
    "input_file": "",
    "input_audio": "",
    "video_url": "",
    "output_text": "",
    "refusal": "",
}

ITEMS: dict[str, str] = {
    "message": "",
    "function_call": "",
    "function_call_output": "",
    "custom_tool_call": "",
    "custom_tool_call_output": "",
    "reasoning": "",
    "item_reference": "",
    "additional_tools": "refused: send all tools in tools",
    "configuration_update": "refused: send the fields themselves",
    "compaction*": "refused: history is never summed up in silence",
    "program*": _RECORD,
    "apply_patch_call*": _RECORD,
    "code_interpreter_call": _RECORD,
    "computer_call*": _RECORD,
    "file_search_call": _RECORD,
    "image_generation_call": _RECORD,
    "local_shell_call*": _RECORD,
    "shell_call*": _RECORD,
    "mcp_*": _RECORD,
    "tool_search_*": _RECORD,
    "web_search_call": _RECORD,
}

TOOLS: dict[str, str] = {
    "function": "",
    "custom": "",
    "file_search": _HOSTED,
    "web_search*": _HOSTED,
    "computer*": _HOSTED,
    "code_interpreter": _HOSTED,
    "mcp": _HOSTED,
    "image_generation": _HOSTED,
    "local_shell": _HOSTED,
    "shell": _HOSTED,
    "apply_patch": _HOSTED,
    "tool_search": _HOSTED,
    "programmatic_tool_calling": _HOSTED,
    "namespace": "left out: its functions are found by a search that a service does",
}

BLOCKS: dict[str, str] = {
    "text": "",
    "image": "",
    "document": "",
    "tool_use": "",
    "tool_result": "",
    "thinking": "",
    "redacted_thinking": "",
    "search_result": "refused: send what was found as text or as a document",
    "container_upload": "refused: there are no containers",
    "compaction": "refused: history is never summed up in silence",
    "fallback": "refused: there is one model",
    "tool_addition": "refused: send all tools in tools",
    "tool_removal": "refused: send all tools in tools",
    "mcp_tool_*": _RECORD,
    "server_tool_use": _RECORD,
    "*_tool_result": _RECORD,
}

MESSAGE_TOOLS: dict[str, str] = {
    "custom": "",
    "advisor_*": _HOSTED,
    "bash_*": _HOSTED,
    "browser_toolset_*": _HOSTED,
    "code_execution_*": _HOSTED,
    "computer_*": _HOSTED,
    "mcp_toolset": _HOSTED,
    "memory_*": _HOSTED,
    "text_editor_*": _HOSTED,
    "tool_search_tool_*": _HOSTED,
    "web_fetch_*": _HOSTED,
    "web_search_*": _HOSTED,
}

TABLES: dict[str, dict[str, str]] = {
    "Parts of messages of POST /v1/chat/completions": PARTS,
    "Tools of POST /v1/chat/completions": CHAT_TOOLS,
    "Parts of messages of POST /v1/responses": INPUTS,
    "Items of POST /v1/responses": ITEMS,
    "Tools of POST /v1/responses": TOOLS,
    "Blocks of POST /v1/messages": BLOCKS,
    "Tools of POST /v1/messages": MESSAGE_TOOLS,
}


def left_out(kind: str) -> bool:
    """Return whether a tool of a Responses request is left out: a model need not use what it isn't offered."""
    key = entry(TOOLS, kind)
    return key is not None and bool(TOOLS[key])
