"""What the bodies of both kinds of completion have in common, as the engine's side takes it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from sidecar.api.schemas import SamplingFields
from sidecar.engine.messages import ModelInfo, Sampling, Tier
from sidecar.errors import bad_request

_seeds = random.SystemRandom()


def tier_of(header: str | None, body: SamplingFields) -> tuple[Tier, int]:
    """Return tier and priority: by header ``X-Request-Priority``, then ``priority``, then ``service_tier``.

    A priority above 0 is batch work.
    """
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


def samplings(model: ModelInfo, body: SamplingFields, *, logprobs: bool, top_logprobs: int) -> tuple[Sampling, ...]:
    """Return the parameters of each of the ``n`` choices; the model's own defaults stand in for what is absent."""

    def pick(name: str, fallback: Any) -> Any:
        given = getattr(body, name)
        return given if given is not None else model.defaults.get(name, fallback)

    seed = body.seed if body.seed is not None else _seeds.getrandbits(62)
    bias = _bias(body.logit_bias, model.vocabulary)
    for token in body.stop_token_ids or ():
        if token >= model.vocabulary:
            text = f"stop_token_ids: this model's token ids are between 0 and {model.vocabulary - 1}."
            raise bad_request(text, param="stop_token_ids")
    return tuple(
        Sampling(
            temperature=pick("temperature", 1.0),
            top_p=pick("top_p", 1.0),
            top_k=max(0, int(pick("top_k", 0))),
            min_p=pick("min_p", 0.0),
            seed=(seed + i) & ((1 << 63) - 1),
            presence_penalty=pick("presence_penalty", 0.0),
            frequency_penalty=pick("frequency_penalty", 0.0),
            repetition_penalty=pick("repetition_penalty", 1.0),
            logit_bias=bias,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            min_tokens=body.min_tokens or 0,
            ignore_eos=bool(body.ignore_eos),
            stop_tokens=tuple(body.stop_token_ids or ()),
        )
        for i in range(body.n or 1)
    )


def limits_of(model: ModelInfo, asked: int | None, otherwise: int | None = None) -> dict[str, Any]:
    """Return how long an answer may be, as ``Generate`` has it: what was asked for, else what the profile says."""
    preset = model.preset
    return {
        "max_tokens": asked if asked is not None else preset.get("max_tokens", otherwise),
        "context": preset.get("context", 0),
    }


def stops_of(stop: str | Sequence[str] | None, model: ModelInfo) -> tuple[str, ...]:
    """Return the stop strings, the profile's where none are given; an empty one stops nothing."""
    stop = model.preset.get("stop") if stop is None else stop
    return tuple(s for s in ([stop] if isinstance(stop, str) else stop or ()) if s)


def _bias(bias: dict[str, float] | None, vocabulary: int) -> tuple[tuple[int, float], ...]:
    out = []
    for key, value in (bias or {}).items():
        if not key.isascii() or not key.isdigit() or int(key) >= vocabulary:
            raise bad_request(
                f"logit_bias: {key!r} is not a token id of this model (0 to {vocabulary - 1}).",
                param="logit_bias",
            )
        if not -100 <= value <= 100:
            raise bad_request("logit_bias: values are between -100 and 100.", param="logit_bias")
        out.append((int(key), value))
    return tuple(out)
