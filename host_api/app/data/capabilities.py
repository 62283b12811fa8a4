"""What a model can be used for."""

from __future__ import annotations

from enum import StrEnum

from host_api.app.errors import ApiError

STARTER = "starter"
STARTER_EMBEDDING = "starter-embedding"
RECOMMENDED_ON_MACS = "qwen3-vl-4b"


class Capability(StrEnum):
    """The kinds of work a model is assigned to."""

    TEXT = "text"
    VISION = "vision"
    STRUCTURED_OUTPUT = "structured_output"
    TOOL_USE = "tool_use"
    EMBEDDING = "embedding"


DESCRIPTIONS = {
    Capability.TEXT: "answers in words",
    Capability.VISION: "describes and reads images",
    Capability.STRUCTURED_OUTPUT: "answers by a JSON schema",
    Capability.TOOL_USE: "calls functions",
    Capability.EMBEDDING: "turns text into vectors for search",
}


def parse(name: str) -> Capability:
    """The capability called ``name``. Raises a 404 that lists them."""
    try:
        return Capability(name)
    except ValueError:
        known = ", ".join(Capability)
        raise ApiError(
            404, f"There is no capability {name!r}; there are: {known}.", code="capability_not_found"
        ) from None
