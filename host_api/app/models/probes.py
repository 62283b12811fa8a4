"""Tries what a model can do by asking it."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from host_api.app.data.capabilities import Capability
from host_api.app.errors import ApiError
from host_api.app.models.gateway import Gateway, Target

_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class Outcome:
    """What a probe found: ``ok`` is None when the server failed for another reason than the model."""

    ok: bool | None
    detail: str


async def probe(gateway: Gateway, target: Target, capability: Capability) -> Outcome:
    """Ask the model for one thing only a model with ``capability`` can do."""
    try:
        return await _PROBES[capability](gateway, target)
    except ApiError as exc:
        refused = exc.code == "provider_error" and exc.status_code == 502
        return Outcome(False if refused else None, exc.message)


async def _ask(gateway: Gateway, target: Target, content: Any, **extra: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 64, **extra}
    document = await gateway.post(target, "/chat/completions", body)
    try:
        message: dict[str, Any] = document["choices"][0]["message"]
    except (KeyError, IndexError, TypeError) as exc:
        raise ApiError(502, "The answer has no message.", code="provider_invalid") from exc
    return message


async def _text(gateway: Gateway, target: Target) -> Outcome:
    said = ((await _ask(gateway, target, "Say hello.")).get("content") or "").strip()
    return Outcome(bool(said), f"said {said[:60]!r}" if said else "said nothing")


async def _vision(gateway: Gateway, target: Target) -> Outcome:
    """Two pictures and one question: who answers without looking says the same of both."""
    said = {}
    for colour, (name, other) in _COLOURS.items():
        image = base64.b64encode(square_png(colour)).decode()
        parts = [
            {"type": "text", "text": "What is in this picture, and what colour is it? Answer briefly."},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        ]
        said[name] = ((await _ask(gateway, target, parts)).get("content") or "").strip()
        if name not in said[name].lower() or other in said[name].lower():
            return Outcome(False, f"said {said[name][:60]!r} of a {name} square")
    return Outcome(True, "; ".join(f"said {words[:60]!r} of a {name} square" for name, words in said.items()))


async def _structured(gateway: Gateway, target: Target) -> Outcome:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA, "strict": True}}
    said = (await _ask(gateway, target, "What is 2 + 2?", response_format=form)).get("content") or ""
    try:
        value = json.loads(said)
    except ValueError:
        value = None
    ok = isinstance(value, dict) and list(value) == ["answer"] and isinstance(value["answer"], int)
    return Outcome(ok, f"answered {said[:60]!r} to a schema")


async def _tools(gateway: Gateway, target: Target) -> Outcome:
    question = "What is the weather in Paris now? Use the tool."
    said = ""
    for choice in ("auto", "required"):
        message = await _ask(gateway, target, question, tools=[_TOOL], tool_choice=choice)
        for call in message.get("tool_calls") or []:
            function = call.get("function") or {}
            try:
                arguments = json.loads(function.get("arguments") or "")
            except ValueError:
                continue
            if function.get("name") == "get_weather" and isinstance(arguments, dict) and "city" in arguments:
                return Outcome(True, f"called get_weather (tool_choice {choice})")
        said = message.get("content") or said
    return Outcome(False, f"called no tool; said {said[:60]!r}")


async def _embedding(gateway: Gateway, target: Target) -> Outcome:
    document = await gateway.post(target, "/embeddings", {"input": "a red house"})
    try:
        vector = document["data"][0]["embedding"]
        size = len([float(x) for x in vector])
    except (KeyError, IndexError, TypeError, ValueError):
        return Outcome(False, "the answer has no vector")
    return Outcome(size > 0, f"{size} dimensions")


_PROBES = {
    Capability.TEXT: _text,
    Capability.VISION: _vision,
    Capability.STRUCTURED_OUTPUT: _structured,
    Capability.TOOL_USE: _tools,
    Capability.EMBEDDING: _embedding,
}


_RED, _BLUE = b"\xe0\x10\x10", b"\x10\x30\xe0"
_COLOURS = {_RED: ("red", "blue"), _BLUE: ("blue", "red")}


def square_png(colour: bytes = _RED, side: int = 224) -> bytes:
    """A PNG of ``side`` pixels: a square of ``colour`` (three bytes) in the middle of white."""
    edge = side // 5
    inner = side - 2 * edge
    blank = b"\0" + b"\xff" * 3 * side
    line = b"\0" + b"\xff" * 3 * edge + colour * inner + b"\xff" * 3 * edge
    rows = blank * edge + line * inner + blank * edge

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
