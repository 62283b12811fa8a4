"""Which of the user's own words fit a text: asked of the built-in model as yes or no, with exact probabilities.

A free list of tags seldom has the user's words in it when the text doesn't: "Saturn has rings" isn't tagged
"astronomy" unless that is asked. The sidecar's ``POST /v1/decisions`` asks for all words over one pass of the text.

An answer counts where the model would have said yes or no at all (``mass``): one that is too small to follow the
question spreads its probability over other words, and its yes is chance (the starter model's mass is about 0.35, and of
twelve texts its likeliest word was right for none).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from host_api.app.errors import ApiError
from host_api.app.models.gateway import Gateway, ProviderRefusal, Target

log = logging.getLogger("host.tasks")

MOST = 32  # questions of a request
SURE = 0.7  # probability of yes, from which on a word is a tag
MASS = 0.5


async def fitting(gateway: Gateway, target: Target, text: str, words: Sequence[str]) -> list[str]:
    """Return those of the first ``MOST`` words that fit a text, the surest first; none where the model can't tell.

    Only the sidecar decides; for another provider's model nothing is asked. Raises ApiError when it can't be reached.
    """
    asked = list(words)[:MOST]
    if not asked or not target.builtin:
        return []
    questions = {
        str(i): {"type": "bool", "instructions": f"Is the text above about this topic: {word}?"}
        for i, word in enumerate(asked)
    }
    body = {"state": f"Text: {text}", "questions": questions}
    try:
        results = (await gateway.post(target, "/decisions", body, batch=True)).get("results")
    except ProviderRefusal as exc:  # a text beyond its context, an older sidecar: the other tags stand
        log.info("%s decides nothing: %s", target.model, exc.message)
        return []
    if not isinstance(results, dict):
        raise ApiError(502, "The decisions have no results.", code="provider_invalid")
    return believed({word: results.get(str(i)) for i, word in enumerate(asked)})


def believed(results: Mapping[str, Any]) -> list[str]:
    """Return the words whose yes can be believed, the surest first."""
    found: dict[str, float] = {}
    for word, result in results.items():
        if isinstance(result, dict) and float(result.get("mass", 0)) >= MASS:
            yes = float(result.get("probabilities", {}).get("true", 0))
            if yes >= SURE:
                found[word] = yes
    return sorted(found, key=lambda word: -found[word])
