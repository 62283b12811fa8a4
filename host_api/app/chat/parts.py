"""From the chunks of an answer to the parts of its message, as the AI SDK puts them together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Chunk = dict[str, Any]
Part = dict[str, Any]
_SOURCE = frozenset({"type", "url", "mediaType", "title", "filename", "sourceId", "providerMetadata"})
_ENDED = "the answer ended before the tool did"


class Parts:
    """Takes chunks in their order; ``parts`` is the message so far."""

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        self.parts: list[Part] = []
        self._open: dict[tuple[str, str], Part] = {}
        for chunk in chunks:
            self.take(chunk)

    def take(self, chunk: Chunk) -> None:
        """Add one chunk; an unknown one changes nothing."""
        kind = str(chunk.get("type", ""))
        what, _, step = kind.rpartition("-")
        if what in ("text", "reasoning") and step in ("start", "delta", "end"):
            self._words(what, step, chunk)
        elif kind == "start-step":
            self.parts.append({"type": "step-start"})
        elif kind == "finish-step":
            self._open.clear()
        elif kind in ("file", "source-url", "source-document"):
            self.parts.append({k: v for k, v in chunk.items() if k in _SOURCE})
        elif kind.startswith("tool-"):
            self._tool(kind, chunk)
        elif kind.startswith("data-") and not chunk.get("transient"):
            self._data(kind, chunk)

    def _words(self, what: str, step: str, chunk: Chunk) -> None:
        key = (what, str(chunk.get("id")))
        part = self._open.get(key)
        if part is None:
            part = self._open[key] = {"type": what, "text": "", "state": "streaming"}
            self.parts.append(part)
        if "providerMetadata" in chunk:
            part["providerMetadata"] = chunk["providerMetadata"]
        if step == "delta":
            part["text"] += chunk.get("delta", "")
        elif step == "end":
            part["state"] = "done"
            del self._open[key]

    def _tool(self, kind: str, chunk: Chunk) -> None:
        call = chunk.get("toolCallId")
        part = next((p for p in reversed(self.parts) if "toolCallId" in p and p["toolCallId"] == call), None)
        if part is None:
            if "toolName" not in chunk:
                return
            name = chunk["toolName"]
            dynamic = {"type": "dynamic-tool", "toolName": name} if chunk.get("dynamic") else {"type": f"tool-{name}"}
            part = {**dynamic, "toolCallId": call, "state": "input-streaming"}
            self.parts.append(part)
        part.update({name: chunk[name] for name in ("input", "output", "errorText", "preliminary") if name in chunk})
        if "providerMetadata" in chunk:
            part["callProviderMetadata"] = chunk["providerMetadata"]
        if kind == "tool-approval-request":
            part["approval"] = {"id": chunk.get("approvalId")}
        states = {
            "tool-input-available": "input-available",
            "tool-input-error": "output-error",
            "tool-approval-request": "approval-requested",
            "tool-output-available": "output-available",
            "tool-output-error": "output-error",
            "tool-output-denied": "output-denied",
        }
        part["state"] = states.get(kind, part["state"])

    def _data(self, kind: str, chunk: Chunk) -> None:
        known = next((p for p in self.parts if p["type"] == kind and p.get("id") == chunk.get("id") is not None), None)
        if known is not None:
            known["data"] = chunk.get("data")
        else:
            self.parts.append({k: v for k, v in chunk.items() if k in ("type", "id", "data")})

    def ended(self, error: str = "") -> list[Part]:
        """Return the parts of an answer that ended here: nothing of it is open any more; ``error`` says why, if so."""
        for part in self.parts:
            if part.get("state") == "streaming":
                part["state"] = "done"
            if part.get("state") in ("input-streaming", "input-available", "approval-requested"):
                part.update({"state": "output-error", "errorText": _ENDED, "input": part.get("input")})
                part.pop("approval", None)
        self._open.clear()
        said = any(part["type"] != "step-start" for part in self.parts)
        found = self.parts if said else []
        return [*found, {"type": "data-error", "data": {"text": error}}] if error else found
