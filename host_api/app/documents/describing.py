"""What a picture shows, in words: asked of the model that sees, at batch priority."""

from __future__ import annotations

import base64
import logging

from host_api.app.data.capabilities import Capability
from host_api.app.errors import ApiError
from host_api.app.models.gateway import Gateway, ProviderRefusal

log = logging.getLogger("host.tasks")

_PROMPT = "Describe this picture in one or two sentences: what it shows, any words in it, colours and numbers."
_TOKENS = 96
_PICTURES_OWN = frozenset({400, 413, 415, 422})  # a refusal of this picture, not a failing server


async def describe(gateway: Gateway, picture: bytes) -> str:
    """Return what a PNG shows; nothing where no model sees, or it refuses this picture. Raises ApiError."""
    try:
        target = await gateway.target(Capability.VISION)
    except ApiError as exc:
        if exc.code == "capability_unassigned":
            return ""
        raise
    url = "data:image/png;base64," + base64.b64encode(picture).decode()
    parts = [{"type": "text", "text": _PROMPT}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": _TOKENS}
    try:
        document = await gateway.post(target, "/chat/completions", body, batch=True)
    except ProviderRefusal as exc:
        if exc.answered not in _PICTURES_OWN:
            raise
        log.warning("a picture was refused by %s: %s", target.model, exc.message)
        return ""
    try:
        return " ".join((document["choices"][0]["message"]["content"] or "").split())
    except (KeyError, IndexError, TypeError) as exc:
        raise ApiError(502, "The description has no message.", code="provider_invalid") from exc
