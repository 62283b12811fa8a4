"""Log-probabilities as clients see them: of texts, where the engine has token ids."""

from __future__ import annotations

from sidecar.backend.loader import LoadedModel
from sidecar.engine.messages import Scores, TokenText
from sidecar.engine.rows import Token
from sidecar.text.language import language_of

_LEAST = -9999.0  # JSON has no infinity


def scores_of(loaded: LoadedModel, token: Token) -> Scores:
    """Return a token's score and those of the likeliest in its place.

    ``raw`` has a token's exact bytes, also where they are part of a character and the text shows U+FFFD.
    """
    words = language_of(loaded).vocabulary

    def one(number: int, logprob: float) -> TokenText:
        raw = words.bytes_of(number)
        return TokenText(text=raw.decode("utf-8", "replace"), raw=raw, logprob=max(logprob, _LEAST))

    return Scores(token=one(token.id, token.logprob), top=tuple(one(i, v) for i, v in token.top))
