"""An answer's pieces as clients see them: texts, and log-probabilities of texts, where the engine has token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sidecar.backend.loader import LoadedModel
from sidecar.engine.messages import Generate, Piece, Scores, TokenText
from sidecar.engine.rows import Prompt, Token
from sidecar.engine.thread import EngineThread
from sidecar.text.delta import Delta
from sidecar.text.language import language_of
from sidecar.text.plan import Choice

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


def prompt_scores(
    engine: EngineThread, job: Generate, loaded: LoadedModel, prompts: Sequence[Prompt]
) -> tuple[tuple[Scores, ...], ...]:
    """Return the scores of the prompts' tokens where the job asks for them. Waits for the engine."""
    top = job.prompt_scores
    if top is None:
        return ()
    futures = [engine.score(Path(job.path), p.tokens, top, job.tier) for p in prompts]
    return tuple(tuple(scores_of(loaded, token) for token in future.result()) for future in futures)


def piece_of(
    job: int,
    index: int,
    choice: Choice,
    loaded: LoadedModel,
    tokens: Sequence[int],
    delta: Delta,
    finish: str | None,
) -> Piece:
    """Return what a choice of a job gained: the tokens that came and what became visible of them."""
    answer, ended = choice.answer, finish is not None
    scored = delta.tokens if choice.sampling.logprobs else []
    return Piece(
        id=job,
        index=index,
        tokens=tuple(tokens),
        content=delta.content,
        reasoning=delta.reasoning,
        tool_calls=tuple(delta.tool_calls),
        scores=tuple(scores_of(loaded, t) for t in scored),
        finish=finish,
        stop=answer.stop if ended else None,
        completion_tokens=answer.tokens if ended else 0,
        reasoning_tokens=answer.reasoning_tokens if ended else 0,
    )
