"""Tags of a text, by a JSON schema, normalised."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable

from host_api.app.capabilities import Capability
from host_api.app.errors import ApiError
from host_api.app.gateway import Gateway

MOST = 8
LONGEST = 40
_TEXT = 6000
SCHEMA = {
    "type": "object",
    "properties": {
        "tags": {"type": "array", "items": {"type": "string", "maxLength": LONGEST}, "minItems": 1, "maxItems": 5}
    },
    "required": ["tags"],
    "additionalProperties": False,
}


def normalise(tags: Iterable[object]) -> list[str]:
    """Lower case, single spaces, no ``#``, each once in the order given, at most ``MOST``."""
    found: dict[str, None] = {}
    for tag in tags:
        text = unicodedata.normalize("NFKC", str(tag)).casefold()
        text = " ".join(text.replace("_", " ").split()).strip(" #.,;:!?\"'`()[]{}-")
        if text and len(text) <= LONGEST:
            found.setdefault(text)
    return list(found)[:MOST]


async def tags_of(gateway: Gateway, text: str) -> list[str]:
    """Ask the ``structured_output`` model. Raises ApiError."""
    target = await gateway.target(Capability.STRUCTURED_OUTPUT)
    prompt = f"Give short topic tags (1 to 3 words each) for this text.\n\n{text[:_TEXT]}\n\nTags as JSON:"
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "tags", "schema": SCHEMA, "strict": True}},
        "temperature": 0,
        "max_tokens": 700,
    }
    document = await gateway.post(target, "/chat/completions", body, batch=True)
    try:
        tags = normalise(json.loads(document["choices"][0]["message"]["content"])["tags"])
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise ApiError(502, "The model's tags are not by the schema.", code="provider_invalid") from exc
    if not tags:
        raise ApiError(502, "The model gave no usable tag.", code="provider_invalid")
    return tags
