"""Answers as the Responses API's documents and events.

Theory of operation. Pieces come in one order (thoughts, words, calls), and a response is a list of output items. One
item is open at a time; a piece of another kind closes it and opens the next. Every event carries the next sequence
number, and a whole response is made by the same steps with the events thrown away, so the two can't differ.

A worked example, "Let me look." and one call: created, in_progress, output_item.added (message), content_part.added,
output_text.delta …, output_text.done, content_part.done, output_item.done, output_item.added (function_call),
function_call_arguments.delta …, function_call_arguments.done, output_item.done, completed.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

from sidecar.api.answers import Answers
from sidecar.api.responses.schemas import ResponseRequest
from sidecar.engine.messages import Piece, Scores, TokenText


def new_id(prefix: str) -> str:
    """Return a fresh id of OpenAI's form."""
    return f"{prefix}_{uuid.uuid4().hex}"


def skeleton(body: ResponseRequest, model: str, response_id: str) -> dict[str, Any]:
    """Return a response document with nothing in it yet."""
    text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text is not None else {}
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "queued" if body.background else "in_progress",
        "background": bool(body.background),
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": body.reasoning.model_dump() if body.reasoning is not None else {"effort": None, "summary": None},
        "service_tier": "flex" if body.background or body.service_tier == "flex" else "default",
        "store": body.store is not False,
        "temperature": body.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": body.tool_choice or "auto",
        "tools": [t.model_dump(exclude_none=True) | {"strict": bool(t.strict)} for t in body.tools or []],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
    }


class ResponseForm:
    """One response being put together. ``document`` is the response as it stands."""

    named = True

    def __init__(self, body: ResponseRequest, document: dict[str, Any]) -> None:
        self.document = document
        self._custom = {t.name for t in body.tools or [] if t.type == "custom"}
        self._logprobs = "message.output_text.logprobs" in (body.include or [])
        self._sequence = 0
        self._open: dict[str, Any] | None = None
        self._call = -1  # index of the call that is open

    # --- the form's face ------------------------------------------------------------------------------
    def whole(self, answers: Answers) -> dict[str, Any]:
        """Return the finished response."""
        answer = answers.choices[0]
        calls = tuple({"index": i, **call} for i, call in enumerate(answer.tool_calls))
        for piece in (
            Piece(id=0, index=0, reasoning=answer.reasoning),
            Piece(id=0, index=0, content=answer.content, scores=tuple(answer.scores)),
            Piece(id=0, index=0, tool_calls=calls),
        ):
            self.chunks(piece)
        self.closing(answers)
        return self.document

    def opening(self, answers: Answers) -> list[dict[str, Any]]:
        """Return the events that tell of a response that begins."""
        first = self._event("response.created", response=self._snapshot())
        self.document["status"] = "in_progress"
        return [first, self._event("response.in_progress", response=self._snapshot())]

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the events of a piece."""
        out: list[dict[str, Any]] = []
        if piece.reasoning:
            out += self._say("reasoning", piece.reasoning, ())
        if piece.content or (piece.scores and self._open is not None and self._open["type"] == "message"):
            out += self._say("message", piece.content, piece.scores)
        for call in piece.tool_calls:
            out += self._called(call)
        return out

    def closing(self, answers: Answers) -> list[dict[str, Any]]:
        """Return the events of the end."""
        cut = answers.choices[0].finish == "length"
        out = list(self._close("incomplete" if cut else "completed"))
        usage = answers.usage()
        self.document |= {
            "status": "incomplete" if cut else "completed",
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": usage["completion_tokens_details"],
                "total_tokens": usage["total_tokens"],
            },
        }
        kind = "response.incomplete" if cut else "response.completed"
        return [*out, self._event(kind, response=self._snapshot())]

    def told(self, progress: dict[str, Any]) -> list[dict[str, Any]]:
        """Return nothing: the API has no such event, and its clients read none they don't know."""
        return []

    def failed(self, error: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the events of a response that ends by an error, whose document is given."""
        message = str(error["message"])
        self.document |= {"status": "failed", "error": {"code": "server_error", "message": message}}
        details = {"code": error.get("code") or error.get("type"), "message": message, "param": error.get("param")}
        return [self._event("error", **details), self._event("response.failed", response=self._snapshot())]

    # --- items ----------------------------------------------------------------------------------------
    def _say(self, kind: str, text: str, scores: tuple[Scores, ...]) -> Iterator[dict[str, Any]]:
        """Yield the events of more text in the open item of a kind, opening one first where another is open."""
        if self._open is None or self._open["type"] != kind:
            yield from self._close("completed")
            yield from self._begin(kind)
        assert self._open is not None
        part = self._open["content"][0]
        part["text"] += text
        name = "response.reasoning_text" if kind == "reasoning" else "response.output_text"
        delta: dict[str, Any] = {**self._place(), "content_index": 0, "delta": text}
        if kind == "message":
            entries = [_entry(s) for s in scores] if self._logprobs else []
            part["logprobs"] += entries
            delta["logprobs"] = [{k: v for k, v in e.items() if k != "bytes"} for e in entries]
        yield self._event(f"{name}.delta", **delta)

    def _begin(self, kind: str) -> Iterator[dict[str, Any]]:
        if kind == "reasoning":
            item: dict[str, Any] = {"type": "reasoning", "id": new_id("rs"), "summary": [], "content": []}
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            item = {"type": "message", "id": new_id("msg"), "role": "assistant", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item["status"] = "in_progress"
        yield from self._add(item)
        item["content"].append(part)
        yield self._event("response.content_part.added", **self._place(), content_index=0, part=dict(part))

    def _called(self, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
        function = call["function"]
        if call["index"] != self._call:
            yield from self._close("completed")
            self._call = call["index"]
            custom = function.get("name") in self._custom
            item = {
                "type": "custom_tool_call" if custom else "function_call",
                "id": new_id("ctc" if custom else "fc"),
                "call_id": call.get("id") or new_id("call"),
                "name": function.get("name", ""),
                "input" if custom else "arguments": "",
                "status": "in_progress",
            }
            yield from self._add(item)
        assert self._open is not None
        more = function.get("arguments", "")
        if self._open["type"] == "custom_tool_call":
            self._open["_arguments"] = self._open.get("_arguments", "") + more
        elif more:
            self._open["arguments"] += more
            yield self._event("response.function_call_arguments.delta", **self._place(), delta=more)

    def _add(self, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self._open = item
        self.document["output"].append(item)
        index = len(self.document["output"]) - 1
        yield self._event("response.output_item.added", output_index=index, item=_copy(item))

    def _close(self, status: str) -> Iterator[dict[str, Any]]:
        """Yield the events of the open item's end."""
        item, place = self._open, self._place()
        if item is None:
            return
        item["status"] = status
        if item["type"] in ("message", "reasoning"):
            part = item["content"][0]
            name = "response.output_text" if item["type"] == "message" else "response.reasoning_text"
            done = {"logprobs": part["logprobs"]} if item["type"] == "message" else {}
            yield self._event(f"{name}.done", **place, content_index=0, text=part["text"], **done)
            yield self._event("response.content_part.done", **place, content_index=0, part=dict(part))
        elif item["type"] == "custom_tool_call":
            item["input"] = _input(item.pop("_arguments", ""))
            yield self._event("response.custom_tool_call_input.delta", **place, delta=item["input"])
            yield self._event("response.custom_tool_call_input.done", **place, input=item["input"])
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", **place, **done)
        yield self._event("response.output_item.done", output_index=place["output_index"], item=_copy(item))
        self._open = None

    def _place(self) -> dict[str, Any]:
        return {
            "item_id": self._open["id"] if self._open is not None else "",
            "output_index": len(self.document["output"]) - 1,
        }

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _snapshot(self) -> dict[str, Any]:
        return {**self.document, "output": [_copy(item) for item in self.document["output"]]}


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    copy = {k: v for k, v in item.items() if not k.startswith("_")}
    if isinstance(copy.get("content"), list):
        copy["content"] = [dict(part) for part in copy["content"]]
    return copy


def _input(arguments: str) -> str:
    """Return the text of a custom tool's call from the JSON object it was called with."""
    try:
        return str(json.loads(arguments)["input"])
    except (ValueError, KeyError, TypeError):
        return arguments


def _entry(scores: Scores) -> dict[str, Any]:
    def one(token: TokenText) -> dict[str, Any]:
        return {"token": token.text, "bytes": list(token.raw), "logprob": token.logprob}

    return {**one(scores.token), "top_logprobs": [one(t) for t in scores.top]}
