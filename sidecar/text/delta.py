"""What becomes visible of an answer at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Delta:
    """Text, reasoning and tool calls that became visible, and the tokens they came from.

    ``tool_calls`` are OpenAI's chunks: the first one of a call has its id and name, the later ones more of its
    arguments. ``tokens`` are the entries handed to ``Answer.token``: a token comes with the first of its characters.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls or self.tokens)

    def add(self, other: Delta) -> None:
        """Append another delta."""
        self.content += other.content
        self.reasoning += other.reasoning
        self.tool_calls.extend(other.tool_calls)
        self.tokens.extend(other.tokens)
