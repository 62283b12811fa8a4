"""A request's answers as they come together from the engine's pieces. Plain bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sidecar.engine.messages import Generate, Piece, Prefilled, Prepared, Reply, Scores


@dataclass(eq=False)
class Answer:
    """One choice so far."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    finish: str | None = None
    stop: str | None = None
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, piece: Piece) -> None:
        """Take what the choice gained."""
        self.content += piece.content
        self.reasoning += piece.reasoning
        self.scores.extend(piece.scores)
        for call in piece.tool_calls:
            while len(self.tool_calls) <= call["index"]:
                self.tool_calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
            whole = self.tool_calls[call["index"]]
            whole["id"] = call.get("id", whole["id"])
            whole["function"]["name"] += call["function"].get("name", "")
            whole["function"]["arguments"] += call["function"].get("arguments", "")
        if piece.finish is not None:
            self.finish, self.stop = piece.finish, piece.stop
            self.completion_tokens, self.reasoning_tokens = piece.completion_tokens, piece.reasoning_tokens


class Answers:
    """All choices of a request, and what they cost."""

    def __init__(self, job: Generate) -> None:
        self.job = job
        self.choices = [Answer() for _ in range(job.choices)]
        self.prepared: Prepared | None = None
        self._cached: dict[int, int] = {}

    def add(self, reply: Reply) -> None:
        """Take what the engine said."""
        if isinstance(reply, Prepared):
            self.prepared = reply
        elif isinstance(reply, Prefilled):
            self._cached.setdefault(reply.index, reply.cached_tokens)
        elif isinstance(reply, Piece):
            self.choices[reply.index].add(reply)

    def prompt_text(self, prompt: int) -> str:
        """Return the text of a prompt that came as text or token ids."""
        given = self.job.prompts[prompt]
        if isinstance(given, str):
            return given
        return self.prepared.texts[prompt] if self.prepared is not None else ""

    def usage(self) -> dict[str, Any]:
        """Return OpenAI's usage document; a prompt counts once however many answers it has."""
        counts = self.prepared.prompt_tokens if self.prepared is not None else ()
        n = len(self.job.samplings)
        cached = [  # the least of its choices': what one of them computed, the others found
            min((self._cached[i] for i in range(p * n, p * n + n) if i in self._cached), default=0)
            for p, _ in enumerate(counts)
        ]
        completion = sum(c.completion_tokens for c in self.choices)
        return {
            "prompt_tokens": sum(counts),
            "completion_tokens": completion,
            "total_tokens": sum(counts) + completion,
            "prompt_tokens_details": {"cached_tokens": sum(cached)},
            "completion_tokens_details": {"reasoning_tokens": sum(c.reasoning_tokens for c in self.choices)},
        }
