"""An answer's way from tokens to what the client reads: text, reasoning, tool calls. No MLX, no network.

Text passes three stages, each holding back only what could still turn out to be a marker: the reasoning
splitter, the stop matcher (content only, so that a stop string is never shown, not even in part), and the
tool splitter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Delta:
    """What became visible: text, reasoning text, tool call deltas in OpenAI's form."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)

    def add(self, other: Delta) -> None:
        """Append another delta."""
        self.content += other.content
        self.reasoning += other.reasoning
        self.tool_calls.extend(other.tool_calls)


def held_back(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of ``text`` that begins one of ``markers``."""
    longest = 0
    for marker in markers:
        for n in range(min(len(marker) - 1, len(text)), longest, -1):
            if marker.startswith(text[-n:]):
                longest = n
                break
    return longest


class StopMatcher:
    """Lets text through up to the first stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """The text that may be shown now."""
        if not self._stops:
            return text
        if self.hit is not None:
            return ""
        text = self._held + text
        found = [(text.find(s), s) for s in self._stops if s in text]
        if found:
            at, self.hit = min(found, key=lambda f: (f[0], -len(f[1])))
            self._held = ""
            return text[:at]
        keep = held_back(text, self._stops)
        self._held = text[len(text) - keep :] if keep else ""
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be text."""
        held, self._held = self._held, ""
        return held


class ReasoningSplitter:
    """Separates ``<think>…</think>`` from the answer. ``inside``: the prompt opened the thought already."""

    START, END = "<think>", "</think>"

    def __init__(self, *, enabled: bool, inside: bool) -> None:
        self._mode = "inside" if enabled and inside else "start" if enabled else "off"
        self._held = ""

    @property
    def thinking(self) -> bool:
        """Whether a thought is open."""
        return self._mode == "inside"

    def feed(self, text: str) -> tuple[str, str]:
        """(reasoning, content) that became clear."""
        if self._mode == "off":
            return "", text
        text = self._held + text
        self._held = ""
        if self._mode == "start":
            bare = text.lstrip()
            if bare.startswith(self.START):
                self._mode, text = "inside", bare[len(self.START) :].removeprefix("\n")
            elif self.START.startswith(bare):
                self._held = text
                return "", ""
            else:
                self._mode = "off"
                return "", text
        if self._mode == "inside":
            thought, end, rest = text.partition(self.END)
            if end:
                self._mode = "after"
                reasoning = thought.rstrip()
                content = self._begin(rest)
                return reasoning, content
            keep = held_back(text, (self.END,))
            # Space before the end marker is not part of the thought.
            keep = max(keep, len(text) - len(text[: len(text) - keep].rstrip()))
            self._held = text[len(text) - keep :] if keep else ""
            return text[: len(text) - keep], ""
        return "", self._begin(text)

    def _begin(self, text: str) -> str:
        text = text.lstrip()
        if text:
            self._mode = "off"
        return text

    def finish(self) -> tuple[str, str]:
        """What was held back."""
        held, self._held = self._held, ""
        return (held.rstrip(), "") if self._mode == "inside" else ("", held)


def call_id(key: str, index: int) -> str:
    """Return the id of an answer's call: the same whenever the answer of that ``key`` is read anew."""
    return f"call_{hashlib.sha256(f'{key}.{index}'.encode()).hexdigest()[:24]}"


class ToolSplitter:
    """Finds tool calls in the content, by the parser of the model's own markup."""

    def __init__(self, module: Any, tools: Sequence[dict[str, Any]], *, one: bool = False, key: str = "") -> None:
        from mlx_vlm.tools.streaming import ToolCallDeltaState

        self._module = module
        self._tools = list(tools)
        self._one = one
        self._key = key
        self._make: Callable[[], Any] = lambda: ToolCallDeltaState(module, self._tools)
        self._state = self._make()
        self._block: str | None = None
        self._held = ""
        self._count = 0
        self._sent: set[int] = set()
        self.done = False  # the one call allowed is there

    @property
    def calls(self) -> int:
        """Calls found so far."""
        return self._count

    def feed(self, text: str) -> Delta:
        """Content and call deltas that became clear."""
        delta = Delta()
        start = self._module.tool_call_start
        end = self._module.tool_call_end or "\n"
        while text or self._held:
            if self.done:
                return delta
            if self._block is None:
                text, self._held = self._held + text, ""
                before, found, rest = text.partition(start)
                if not found:
                    keep = held_back(text, (start,))
                    self._held = text[len(text) - keep :] if keep else ""
                    delta.content += text[: len(text) - keep]
                    return delta
                delta.content += before if before.strip() or not self._count else ""
                self._block, text = "", rest
                self._open(delta, start)
            room = self._block + text
            body, found, rest = room.partition(end)
            if not found:
                self._stream(delta, text)
                self._block = room
                return delta
            self._close(delta, room[len(self._block) : len(body)] + found, start + body + found)
            self._block, text = None, rest.lstrip() if self._count else rest
        return delta

    def finish(self) -> Delta:
        """What was held back; a call that never closed is tried as it is."""
        delta = Delta(content=self._held)
        self._held = ""
        if self._block is not None:
            block, self._block = self._block, None
            end = self._module.tool_call_end
            self._close(delta, end, self._module.tool_call_start + block + end)
        return delta

    def _open(self, delta: Delta, marker: str) -> None:
        self._state = self._make()
        self._stream(delta, marker)

    def _stream(self, delta: Delta, text: str) -> None:
        try:
            self._emit(delta, self._state.feed(text))
        except Exception:
            self._state.calls.clear()

    def _close(self, delta: Delta, text: str, block: str) -> None:
        from mlx_vlm.tools.extractor import process_tool_calls

        self._stream(delta, text)
        calls = process_tool_calls(block, self._module, self._tools).calls
        if not calls and not self._state.calls:
            delta.content += block  # not a call after all: nothing is lost
            return
        try:
            self._emit(delta, self._state.finish(calls))
        except Exception:
            self._emit(delta, [c for i, c in enumerate(calls) if self._count + i not in self._sent])
        self._count = len(self._sent)
        self.done = self._one and self._count > 0

    def _emit(self, delta: Delta, calls: Sequence[dict[str, Any]]) -> None:
        for call in calls:
            index = self._count + int(call.get("index", 0))
            if self._one and index > 0:
                continue
            out = {"index": index, "function": dict(call["function"])}
            if index not in self._sent:
                self._sent.add(index)
                out |= {"id": call_id(self._key, index), "type": "function"}
            delta.tool_calls.append(out)


class ForcedCalls:
    """Reads an answer that is nothing but calls, one JSON object a line, as a grammar forced it to be."""

    def __init__(self, tools: Sequence[dict[str, Any]], *, key: str = "") -> None:
        from mlx_vlm.tools.parsers import json_tools

        self._start, self._end = json_tools.tool_call_start, json_tools.tool_call_end
        self._splitter = ToolSplitter(json_tools, tools, key=key)
        self._open = False
        self.done = False

    @property
    def calls(self) -> int:
        """Calls found so far."""
        return self._splitter.calls

    def feed(self, text: str) -> Delta:
        """Call deltas that became clear."""
        delta = Delta()
        lines = text.split("\n")
        for i, line in enumerate(lines):
            if line and not self._open:
                delta.add(self._splitter.feed(self._start))
                self._open = True
            if line:
                delta.add(self._splitter.feed(line))
            if i < len(lines) - 1 and self._open:
                delta.add(self._splitter.feed(self._end))
                self._open = False
        return delta

    def finish(self) -> Delta:
        """The last call's end."""
        delta = self._splitter.feed(self._end) if self._open else Delta()
        self._open = False
        delta.add(self._splitter.finish())
        return delta


class Answer:
    """One choice being put together from its tokens' text."""

    def __init__(
        self,
        detokenizer: Any,
        *,
        stops: Sequence[str] = (),
        thinking: bool = False,
        preopened: bool = False,
        tools: ToolSplitter | ForcedCalls | None = None,
    ) -> None:
        self._detokenizer = detokenizer
        self._reasoning = ReasoningSplitter(enabled=thinking, inside=preopened)
        self._stop = StopMatcher(stops)
        self._tools = tools
        self.content = ""
        self.reasoning = ""
        self.tool_calls: list[dict[str, Any]] = []
        self.tokens = 0
        self.reasoning_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether generation may end: a stop string came, or the one tool call allowed is complete."""
        return self._stop.hit is not None or (self._tools is not None and self._tools.done)

    def token(self, token: int) -> Delta:
        """Take one token."""
        self.tokens += 1
        if self._reasoning.thinking:
            self.reasoning_tokens += 1
        self._detokenizer.add_token(token)
        return self._take(self._detokenizer.last_segment, last=False)

    def finish(self) -> Delta:
        """The answer's end: everything held back."""
        self._detokenizer.finalize()
        return self._take(self._detokenizer.last_segment, last=True)

    def finish_reason(self, reason: str) -> str:
        """OpenAI's reason for an engine's reason."""
        return "tool_calls" if self.tool_calls and reason == "stop" else reason

    def _take(self, text: str, *, last: bool) -> Delta:
        delta = Delta()
        reasoning, content = self._reasoning.feed(text)
        if last:
            more_reasoning, more = self._reasoning.finish()
            reasoning, content = reasoning + more_reasoning, content + more
        content = self._stop.feed(content)
        if last:
            content += self._stop.finish()
        delta.reasoning = reasoning
        if self._tools is None:
            delta.content = content
        else:
            delta.add(self._tools.feed(content))
            if last:
                delta.add(self._tools.finish())
        self._collect(delta)
        return delta

    def _collect(self, delta: Delta) -> None:
        self.content += delta.content
        self.reasoning += delta.reasoning
        for call in delta.tool_calls:
            while len(self.tool_calls) <= call["index"]:
                self.tool_calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
            whole = self.tool_calls[call["index"]]
            whole["id"] = call.get("id", whole["id"])
            whole["function"]["name"] += call["function"].get("name", "")
            whole["function"]["arguments"] += call["function"].get("arguments", "")


def calls_grammar(tools: Sequence[dict[str, Any]], *, parallel: bool) -> str:
    """A Lark grammar of one or more calls of ``tools``, one JSON object a line (llguidance's syntax)."""
    rules = []
    for i, tool in enumerate(tools):
        function = tool["function"]
        schema = {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object", "properties": {}},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
            "x-guidance": {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False},
        }
        rules.append(f"call_{i}: %json {json.dumps(schema)}")
    options = " | ".join(f"call_{i}" for i in range(len(tools)))
    more = ' ("\\n" call)*' if parallel else ""
    return "\n".join([f"start: call{more}", f"call: {options}", *rules])
