"""``POST /v1/completions``: raw text, no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import Response

from sidecar.api import generation, routing
from sidecar.api.answers import Answers
from sidecar.api.guides import guide_of
from sidecar.api.replies import PlainErrors, asked_of, base_document, respond
from sidecar.api.schemas import MAX_CHOICES, CompletionRequest, error_responses
from sidecar.engine.messages import Generate, ModelInfo, Piece, Scores, Tier
from sidecar.errors import bad_request

router = routing.router(tags=["completions"])

_DEFAULT_TOKENS = 16  # OpenAI's


@router.post(
    "/v1/completions",
    response_model=None,
    responses={
        200: {"description": "A text_completion document, or its chunks as server-sent events"},
        **error_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503),
    },
)
async def completions(
    request: Request, body: CompletionRequest, x_request_priority: Annotated[str | None, Header()] = None
) -> Response:
    """Continue texts."""
    body.refuse_unsupported()
    tier, priority = generation.tier_of(x_request_priority, body)
    return await respond(
        request,
        asked_of(body, tier),
        lambda model: _job(model, body, tier, priority),
        lambda name: TextForm(body, name, tier),
    )


def _job(model: ModelInfo, body: CompletionRequest, tier: Tier, priority: int) -> Generate:
    """Return the job of a body. Raises ApiError."""
    prompts = inputs_of(body.prompt)
    if not prompts:
        raise bad_request("prompt: give at least one.", param="prompt")
    if len(prompts) * (body.n or 1) > MAX_CHOICES * 4:
        raise bad_request(f"prompt: at most {MAX_CHOICES * 4} answers are given at once.", param="prompt")
    return Generate(
        id=0,
        path=model.path,
        prompts=prompts,
        guide=guide_of(body),
        prompt_scores=body.logprobs if body.echo else None,
        samplings=generation.samplings(
            model, body, logprobs=body.logprobs is not None, top_logprobs=body.logprobs or 0
        ),
        **generation.limits_of(model, body.max_tokens, _DEFAULT_TOKENS),
        stops=generation.stops_of(body.stop, model),
        tier=tier,
        priority=priority,
        salt=body.cache_salt or "",
    )


def inputs_of(given: Any) -> tuple[str | tuple[int, ...], ...]:
    """Return one or several texts or lists of token ids as a tuple of texts and tuples."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    return tuple(one if isinstance(one, str) else tuple(one) for one in given)


class TextForm(PlainErrors):
    """OpenAI's text_completion documents."""

    def __init__(self, body: CompletionRequest, name: str, tier: Tier) -> None:
        self._body = body
        self._n = body.n or 1
        self._offsets: dict[int, int] = {}
        self._answers: Answers | None = None
        self._echoed: set[int] = set()
        self._base = {**base_document("cmpl", name, tier), "object": "text_completion"}

    def whole(self, answers: Answers) -> dict[str, Any]:
        """Return the text_completion document."""
        self._answers = answers
        choices = [
            {
                "index": i,
                "text": self._echo(i) + answer.content,
                "logprobs": self._logprobs(i, self._prompt_scores(i), answer.scores),
                "finish_reason": answer.finish,
            }
            for i, answer in enumerate(answers.choices)
        ]
        return {**self._base, "choices": choices, "usage": answers.usage()}

    def opening(self, answers: Answers) -> list[dict[str, Any]]:
        """Return none: a prompt that is to be repeated goes before its answer's first piece, with its scores."""
        self._answers = answers
        self._echoed = set() if self._body.echo else set(range(len(answers.choices)))
        return []

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunk of a piece, if it says anything."""
        out = []
        if piece.index not in self._echoed:
            self._echoed.add(piece.index)
            logprobs = self._logprobs(piece.index, self._prompt_scores(piece.index), ())
            out.append(self._chunk(piece.index, self._echo(piece.index), logprobs, None))
        logprobs = self._logprobs(piece.index, (), piece.scores)
        if piece.content or logprobs or piece.finish:
            out.append(self._chunk(piece.index, piece.content, logprobs, piece.finish))
        return out

    def closing(self, answers: Answers) -> list[dict[str, Any]]:
        """Return the chunk with the usage where it was asked for."""
        options = self._body.stream_options
        if not (options and options.include_usage):
            return []
        return [{**self._base, "choices": [], "usage": answers.usage()}]

    def _chunk(self, index: int, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return {**self._base, "choices": [choice]}

    def _echo(self, index: int) -> str:
        if not self._body.echo or self._answers is None:
            return ""
        return self._answers.prompt_text(index // self._n)

    def _prompt_scores(self, index: int) -> Sequence[Scores]:
        """Return the scores of an echoed prompt's tokens."""
        prepared = self._answers.prepared if self._answers is not None else None
        return prepared.scores[index // self._n] if prepared is not None and prepared.scores else ()

    def _logprobs(self, index: int, prompt: Sequence[Scores], answer: Sequence[Scores]) -> dict[str, Any] | None:
        """Return OpenAI's document of the scores of a prompt's and an answer's tokens; None where there are none."""
        if self._body.logprobs is None or not (prompt or answer):
            return None
        out: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        at = 0
        for i, one in enumerate(prompt):
            _add(out, one, at, scored=i > 0)
            at += len(one.token.text)
        for one in answer:
            at = self._offsets.get(index, len(self._echo(index)))
            _add(out, one, at)
            self._offsets[index] = at + len(one.token.text)
        return out


def _add(out: dict[str, Any], one: Scores, at: int, *, scored: bool = True) -> None:
    """Add a token's scores to a document: itself is always among the likeliest, as OpenAI has it."""
    out["tokens"].append(one.token.text)
    out["text_offset"].append(at)
    out["token_logprobs"].append(one.token.logprob if scored else None)
    top = {t.text: t.logprob for t in one.top}
    top.setdefault(one.token.text, one.token.logprob)
    out["top_logprobs"].append(top if scored else None)
