"""Answers as the Messages API's documents and events.

One content block is open at a time: thoughts, then words, then one block a call. A whole message is made by the same
steps as a stream, with the events thrown away.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from sidecar.api.answers import Answers
from sidecar.engine.messages import Piece

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_of(status: int, message: str) -> dict[str, Any]:
    """Return Anthropic's error document for an HTTP status."""
    return {"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": message}}


class MessageForm:
    """One message being put together."""

    named = True

    def __init__(self, model: str) -> None:
        self._open: dict[str, Any] | None = None
        self._call = -1  # index of the call that is open
        self._started = False
        self.document: dict[str, Any] = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }

    def whole(self, answers: Answers) -> dict[str, Any]:
        """Return the finished message."""
        answer = answers.choices[0]
        calls = tuple({"index": i, **call} for i, call in enumerate(answer.tool_calls))
        for piece in (
            Piece(id=0, index=0, reasoning=answer.reasoning),
            Piece(id=0, index=0, content=answer.content),
            Piece(id=0, index=0, tool_calls=calls),
        ):
            self.chunks(piece)
        self.closing(answers)
        return self.document

    def opening(self, answers: Answers) -> list[dict[str, Any]]:
        """Return the event of a message that begins."""
        self._started = True
        self.document["usage"] = _usage(answers)
        return [{"type": "message_start", "message": {**self.document, "content": []}}, {"type": "ping"}]

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the events of a piece."""
        out: list[dict[str, Any]] = []
        if piece.reasoning:
            out += self._say({"type": "thinking", "thinking": "", "signature": ""}, "thinking", piece.reasoning)
        if piece.content:
            out += self._say({"type": "text", "text": ""}, "text", piece.content)
        for call in piece.tool_calls:
            out += self._called(call)
        return out

    def closing(self, answers: Answers) -> list[dict[str, Any]]:
        """Return the events of the end."""
        out = list(self._close())
        answer = answers.choices[0]
        reason = "stop_sequence" if answer.stop is not None else _REASONS.get(answer.finish or "", "end_turn")
        usage = _usage(answers)
        ended = {"stop_reason": reason, "stop_sequence": answer.stop}
        self.document |= {**ended, "usage": usage}
        return [*out, {"type": "message_delta", "delta": ended, "usage": usage}, {"type": "message_stop"}]

    def told(self, progress: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a ping that says how far the request is; clients skip what else than its type it has."""
        return [{"type": "ping", "progress": progress}] if self._started else []

    def failed(self, error: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the event of a stream that ends by an error, whose OpenAI document is given."""
        return [error_of(500 if error.get("type") == "server_error" else 503, str(error["message"]))]

    def _say(self, fresh: dict[str, Any], kind: str, text: str) -> Iterator[dict[str, Any]]:
        if self._open is None or self._open["type"] != kind:
            yield from self._close()
            yield self._begin(fresh)
        assert self._open is not None
        self._open[kind] += text
        yield self._delta({"type": f"{kind}_delta", kind: text})

    def _called(self, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
        function = call["function"]
        if call["index"] != self._call:
            yield from self._close()
            self._call = call["index"]
            name = function.get("name", "")
            block = {"type": "tool_use", "id": call.get("id", ""), "name": name, "input": {}, "_arguments": ""}
            yield self._begin(block)
        assert self._open is not None
        if more := function.get("arguments", ""):
            self._open["_arguments"] += more
            yield self._delta({"type": "input_json_delta", "partial_json": more})

    def _begin(self, block: dict[str, Any]) -> dict[str, Any]:
        self._open = block
        self.document["content"].append(block)
        shown = {k: v for k, v in block.items() if not k.startswith("_")}
        return {"type": "content_block_start", "index": len(self.document["content"]) - 1, "content_block": shown}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self.document["content"]) - 1, "delta": delta}

    def _close(self) -> Iterator[dict[str, Any]]:
        block, self._open = self._open, None
        if block is None:
            return
        if block["type"] == "tool_use":
            block["input"] = _object(block.pop("_arguments"))
        yield {"type": "content_block_stop", "index": len(self.document["content"]) - 1}


def _object(arguments: str) -> dict[str, Any]:
    """Return a call's arguments; those that were cut off are none."""
    try:
        found = json.loads(arguments or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _usage(answers: Answers) -> dict[str, Any]:
    usage = answers.usage()
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage["completion_tokens"],
    }
