"""One request for completions, from its parameters to its choices' events. Between the routes and the engine."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidecar.api.schemas import SamplingFields
from sidecar.api.service import Service
from sidecar.backend.loader import LoadedModel
from sidecar.engine.messages import Done, Event, Failed, GenerationRequest, Prompt, Sampling, Started, Tier, Token
from sidecar.errors import ApiError, bad_request
from sidecar.text.answer import Answer, Delta

log = logging.getLogger("sidecar.api")

_seeds = random.SystemRandom()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one choice produced: visible delta, its tokens, and at the end a reason."""

    index: int
    delta: Delta
    tokens: tuple[Token, ...] = ()
    finish: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request ready to run: its prompt, the choices' parameters, and how their answers are read."""

    prompt: Prompt
    max_tokens: int
    samplings: tuple[Sampling, ...]
    tier: Tier
    priority: int
    answers: tuple[Answer, ...]
    constraints: tuple[Any, ...]
    cached: list[int] = field(default_factory=list)  # filled by ``run``: prompt tokens not computed, by choice


def tier_of(header: str | None, body: SamplingFields) -> tuple[Tier, int]:
    """Tier and priority: header ``X-Request-Priority``, then ``priority`` (above 0 is batch), then ``service_tier``."""
    if header is not None:
        word = header.strip().lower()
        names = {
            "interactive": Tier.INTERACTIVE,
            "high": Tier.INTERACTIVE,
            "batch": Tier.BATCH,
            "low": Tier.BATCH,
        }
        if word in names:
            return names[word], body.priority or 0
        try:
            number = int(word)
        except ValueError:
            raise bad_request(
                "X-Request-Priority: say interactive, batch or an integer (above 0 is batch).",
                param="X-Request-Priority",
            ) from None
        return (Tier.BATCH if number > 0 else Tier.INTERACTIVE), number
    if body.priority is not None:
        return (Tier.BATCH if body.priority > 0 else Tier.INTERACTIVE), body.priority
    return (Tier.BATCH if body.service_tier == "flex" else Tier.INTERACTIVE), 0


def samplings(loaded: LoadedModel, body: SamplingFields, *, logprobs: bool, top_logprobs: int) -> tuple[Sampling, ...]:
    """The parameters of each of the ``n`` choices; what is absent comes from the model's generation_config.json."""
    defaults = loaded.defaults

    def pick(name: str, fallback: Any) -> Any:
        given = getattr(body, name)
        return given if given is not None else defaults.get(name, fallback)

    seed = body.seed if body.seed is not None else _seeds.getrandbits(62)
    bias = _bias(body.logit_bias, loaded)
    return tuple(
        Sampling(
            temperature=pick("temperature", 1.0),
            top_p=pick("top_p", 1.0),
            top_k=max(0, pick("top_k", 0)),
            min_p=pick("min_p", 0.0),
            seed=(seed + i) & ((1 << 63) - 1),
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            repetition_penalty=pick("repetition_penalty", 1.0),
            logit_bias=bias,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
        )
        for i in range(body.n or 1)
    )


def _bias(bias: dict[str, float] | None, loaded: LoadedModel) -> tuple[tuple[int, float], ...]:
    out = []
    for key, value in (bias or {}).items():
        if not key.isascii() or not key.isdigit() or int(key) >= len(loaded.tokenizer):
            raise bad_request(
                f"logit_bias: {key!r} is not a token id of this model (0 to {len(loaded.tokenizer) - 1}).",
                param="logit_bias",
            )
        if not -100 <= value <= 100:
            raise bad_request("logit_bias: values are between -100 and 100.", param="logit_bias")
        out.append((int(key), value))
    return tuple(out)


def token_budget(service: Service, loaded: LoadedModel, prompt: Prompt, asked: int | None) -> int:
    """Answer tokens a request may have. Raises a 400 with both numbers when the prompt leaves no room."""
    limits = [n for n in (service.settings.max_context, loaded.context) if n > 0]
    used = len(prompt.tokens)
    if not used:
        raise bad_request("The prompt is empty.", param="messages")
    limit = min(limits) if limits else 0
    if limit and used >= limit:
        raise bad_request(
            f"The prompt has {used} tokens and the context is {limit}; shorten it.",
            param="messages",
            code="context_length_exceeded",
        )
    if limit and asked is not None and used + asked > limit:
        raise bad_request(
            f"The prompt's {used} tokens and the {asked} asked for exceed the context of {limit} tokens; "
            f"ask for at most {limit - used}.",
            param="max_tokens",
            code="context_length_exceeded",
        )
    wanted = asked or service.settings.max_tokens or (1 << 20)
    return min(wanted, limit - used) if limit else wanted


async def run(service: Service, loaded: LoadedModel, plan: Plan) -> AsyncIterator[Piece]:
    """The pieces of all choices as they come. Leaving the iterator cancels what still runs. Raises ApiError."""
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[tuple[int, Sequence[Event]]] = asyncio.Queue()

    def sink_of(index: int) -> Callable[[Sequence[Event]], None]:
        def sink(events: Sequence[Event]) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, (index, list(events)))

        return sink

    requests = [
        GenerationRequest(
            prompt=plan.prompt,
            sampling=sampling,
            max_tokens=plan.max_tokens,
            tier=plan.tier,
            priority=plan.priority,
            sink=sink_of(i),
            arrived=time.monotonic(),
            constraint=plan.constraints[i],
        )
        for i, sampling in enumerate(plan.samplings)
    ]
    open_choices = set(range(len(requests)))
    path: Path = loaded.path
    with service.queued(plan.tier) as begun:
        try:
            for request in requests:
                service.engine.submit(path, request)
            while open_choices:
                index, events = await inbox.get()
                begun()
                if index not in open_choices:
                    continue
                plan.cached.extend(e.cached_tokens for e in events if isinstance(e, Started))
                piece = _read(plan.answers[index], index, events)
                if piece.finish is None and plan.answers[index].stopped:
                    service.engine.cancel(path, requests[index].id)
                    piece = _ended(plan.answers[index], piece, "stop")
                if piece.finish is not None:
                    open_choices.discard(index)
                yield piece
        finally:
            for index in open_choices:
                service.engine.cancel(path, requests[index].id)
            if service.settings.log_prompts:
                prompt = loaded.tokenizer.decode(list(plan.prompt.tokens))
                log.info("prompt %r, answers %r", prompt, [a.content for a in plan.answers])


def _read(answer: Answer, index: int, events: Sequence[Event]) -> Piece:
    delta = Delta()
    tokens: list[Token] = []
    done: Done | None = None
    for event in events:
        if isinstance(event, Failed):
            raise ApiError(event.status, event.message, code=event.code or "generation_failed")
        if isinstance(event, Done):
            done = event
        elif isinstance(event, Token) and not answer.stopped:
            tokens.append(event)
            delta.add(answer.token(event.id))
    piece = Piece(index=index, delta=delta, tokens=tuple(tokens))
    if done is None:
        return piece
    return _ended(answer, piece, done.reason)


def _ended(answer: Answer, piece: Piece, reason: str) -> Piece:
    piece.delta.add(answer.finish())
    return Piece(index=piece.index, delta=piece.delta, tokens=piece.tokens, finish=answer.finish_reason(reason))


def usage(plan: Plan) -> dict[str, Any]:
    """OpenAI's usage document of a finished request; the prompt counts once whatever ``n`` is."""
    prompt = len(plan.prompt.tokens)
    completion = sum(a.tokens for a in plan.answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": max(plan.cached, default=0)},
        "completion_tokens_details": {"reasoning_tokens": sum(a.reasoning_tokens for a in plan.answers)},
    }
