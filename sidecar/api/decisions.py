"""``POST /v1/decisions``: a choice, a yes or no, or a score, each with its probabilities, by any chat model.

Names of fields are those of mlx-vlm's own route for models made for it: ``state`` and ``images`` are looked at,
``questions`` maps names to what is asked. Here each question is put to the model as a chat and the probabilities of its
answers are read from the scores after the prompt; nothing is sampled.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from sidecar.api import generation, routing
from sidecar.api.chat import conversation_of
from sidecar.api.conversation import Body
from sidecar.api.replies import CLIENT_CLOSED, PRIORITY_HEADER, service_of
from sidecar.api.schemas import ChatRequest, KeepAlive, SamplingFields, error_responses
from sidecar.api.service import Service
from sidecar.api.sse import ClientGone, until_gone
from sidecar.config import Settings
from sidecar.engine.messages import Decide, Decided, DecisionAsked, ModelInfo, Tier
from sidecar.errors import bad_request

router = routing.router(tags=["decisions"])

MAX_QUESTIONS = 32
MAX_OPTIONS = 256
MAX_LEVELS = 101

Text = Annotated[str, Field(min_length=1, max_length=1000)]


class Question(Body):
    """What is to be decided. ``instructions``: in words.

    ``criteria``: of a ``choice`` the options, or options with what each means; of a ``bool`` what ``true`` and
    ``false`` mean; of a ``score`` what each level means, the lowest first. ``min`` and ``max``: a score's range,
    where its levels have no meaning of their own.
    """

    type: Literal["choice", "bool", "boolean", "score"] = "choice"
    instructions: str | None = None
    criteria: list[Text] | dict[Text, str | None] | None = None
    min: int | None = Field(default=None, ge=-1000, le=1000)
    max: int | None = Field(default=None, ge=-1000, le=1000)


class DecisionRequest(Body):
    """``POST /v1/decisions``."""

    model: str | None = None
    state: str | dict[str, Any] | list[Any] | None = None
    images: list[str] | None = None
    questions: dict[str, Question] = Field(min_length=1, max_length=MAX_QUESTIONS)
    keep_alive: KeepAlive | None = None
    priority: int | None = Field(default=None, ge=-(1 << 53), le=1 << 53)


@router.post(
    "/v1/decisions",
    response_model=None,
    responses={
        200: {"description": "The decisions and their probabilities"},
        **error_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503),
    },
)
async def decisions(
    request: Request, body: DecisionRequest, x_request_priority: Annotated[str | None, Header()] = None
) -> Response:
    """Decide questions about a text or pictures, with the probability of each answer."""
    if body.state is None and not body.images:
        raise bad_request("state: give a text or a document, or images.", param="state")
    asked = {name: _options(name, q) for name, q in body.questions.items()}
    tier, priority = generation.tier_of(x_request_priority, SamplingFields(priority=body.priority))
    service = service_of(request)
    try:
        with service.active():
            document = await until_gone(request, _decide(service, body, asked, tier, priority))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)
    return JSONResponse(document, headers={PRIORITY_HEADER: tier.label})


async def _decide(
    service: Service, body: DecisionRequest, asked: dict[str, dict[str, str]], tier: Tier, priority: int
) -> dict[str, Any]:
    with service.queued(tier):
        async with service.models.use(body.model, keep_alive=body.keep_alive) as (name, model):
            job = await asyncio.to_thread(_job, service.settings, model, body, asked, tier, priority)
            answer = await service.engine.decide(job)
    return {"object": "decisions", "model": name, **documents(body.questions, asked, answer)}


def _job(
    settings: Settings,
    model: ModelInfo,
    body: DecisionRequest,
    asked: dict[str, dict[str, str]],
    tier: Tier,
    priority: int,
) -> Decide:
    state = body.state if isinstance(body.state, str) else json.dumps(body.state, ensure_ascii=False)
    pictures: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in body.images or []]
    questions = []
    for name, question in body.questions.items():
        # What all questions share comes first, so that it is processed once.
        words = "" if body.state is None else f"{state}\n\n"
        text = words + prompt_of(name, question, asked[name])
        message = {"role": "user", "content": [*pictures, {"type": "text", "text": text}] if pictures else text}
        effort = "none" if model.thinks and model.thinking_optional else None
        chat = ChatRequest.model_validate({"messages": [message], "reasoning_effort": effort})
        conversation = conversation_of(settings, model, chat)
        questions.append(DecisionAsked(name=name, conversation=conversation, options=tuple(asked[name])))
    return Decide(id=0, path=model.path, questions=tuple(questions), tier=tier, priority=priority)


def _options(name: str, question: Question) -> dict[str, str]:
    """Return the answers a question may have, each with its meaning or "". Raises ApiError."""
    param, criteria = f"questions.{name}.criteria", question.criteria
    if question.type in ("bool", "boolean"):
        if isinstance(criteria, list) or (isinstance(criteria, dict) and set(criteria) - {"true", "false"}):
            raise bad_request(f"{param}: of a bool, say what true and false mean.", param=param)
        meant = criteria or {}
        return {"Yes": meant.get("true") or "", "No": meant.get("false") or ""}
    if question.type == "score":
        if isinstance(criteria, dict):
            raise bad_request(f"{param}: of a score, give a list, the lowest level first.", param=param)
        least = question.min if question.min is not None else 1
        most = question.max if question.max is not None else least + len(criteria) - 1 if criteria else 5
        levels = most - least + 1
        if not 2 <= levels <= MAX_LEVELS or (criteria and len(criteria) != levels):
            raise bad_request(
                f"{param}: a score has 2 to {MAX_LEVELS} levels, and criteria as many as there are.", param=param
            )
        return {str(least + i): criteria[i] if criteria else "" for i in range(levels)}
    found = dict.fromkeys(criteria, "") if isinstance(criteria, list) else dict(criteria or {})
    if len(found) != len(criteria or ()) or not 2 <= len(found) <= MAX_OPTIONS:
        raise bad_request(f"{param}: a choice has 2 to {MAX_OPTIONS} different options.", param=param)
    return {label: meaning or "" for label, meaning in found.items()}


def prompt_of(name: str, question: Question, options: Mapping[str, str]) -> str:
    """Return a question as it is put to the model."""
    asked = question.instructions or f"What is the {name}?"
    lines = [f"- {option}: {meaning}" if meaning else f"- {option}" for option, meaning in options.items()]
    if question.type == "score" and not any(options.values()):
        least, *_, most = options
        lines = [f"- a whole number from {least} (least) to {most} (most)"]
    listing = "\n".join(lines)
    return f"{asked}\n\nAnswer with one of these, and nothing else:\n{listing}"


def documents(
    questions: Mapping[str, Question], asked: Mapping[str, Mapping[str, str]], answer: Decided
) -> dict[str, Any]:
    """Return the results and what they cost, as the answer has them."""
    results = {}
    for (name, question), scores in zip(questions.items(), answer.scores, strict=True):
        results[name] = result_of(question, list(asked[name]), scores)
    total = sum(answer.prompt_tokens)
    usage = {"prompt_tokens": total, "completion_tokens": 0, "total_tokens": total, "passes": answer.passes}
    return {"results": results, "usage": usage}


def result_of(question: Question, labels: list[str], scores: tuple[float, ...]) -> dict[str, Any]:
    """Return one decision. ``mass``: how probable it was that the model would say one of the options at all."""
    top = max(scores)
    if top == -math.inf:
        raise bad_request("questions: this model gives none of the options any probability.", param="questions")
    weights = [math.exp(s - top) for s in scores]
    whole = sum(weights)
    shares = [w / whole for w in weights]
    best = max(range(len(shares)), key=shares.__getitem__)
    mass = {"mass": min(1.0, math.exp(top) * whole)}
    probabilities = dict(zip(labels, shares, strict=True))
    if question.type in ("bool", "boolean"):
        yes = probabilities["Yes"]
        return {"type": "bool", "value": yes >= 0.5, "probabilities": {"true": yes, "false": 1 - yes}, **mass}
    if question.type == "score":
        mean = sum(int(label) * share for label, share in probabilities.items())
        return {"type": "score", "value": int(labels[best]), "mean": mean, "probabilities": probabilities, **mass}
    return {"type": "choice", "value": labels[best], "probabilities": probabilities, **mass}
