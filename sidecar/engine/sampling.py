"""Choose the next token of every row at once, each by its own parameters.

A row's choice depends on its logits, its parameters, its seed and the token's position alone, never on the
rows beside it: sampling is argmax(logits / T + Gumbel noise), the noise drawn from a key of (seed, position).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from sidecar.engine.messages import Sampling

_MASK = (1 << 64) - 1


def noise_key(seed: int, position: int) -> int:
    """A 64-bit key for one draw (splitmix64's finaliser over seed and position)."""
    x = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def choose(logits: mx.array, rows: Sequence[Sampling], positions: Sequence[int]) -> mx.array:
    """Token ids [B] (int32) from ``logits`` [B, V]; ``positions``: index of each row's token in its answer."""
    greedy = mx.argmax(logits, axis=-1)
    drawn = [i for i, row in enumerate(rows) if row.temperature > 0]
    if not drawn:
        return greedy
    params = [rows[i] for i in drawn]
    part = logits if len(drawn) == len(rows) else logits[mx.array(drawn)]
    scaled = part.astype(mx.float32) / mx.array([[p.temperature] for p in params], dtype=mx.float32)
    scaled = _filtered(scaled, params)
    noise = mx.stack(
        [
            mx.random.gumbel(shape=scaled.shape[-1:], key=mx.random.key(noise_key(p.seed, positions[i])))
            for i, p in zip(drawn, params, strict=True)
        ]
    )
    sampled = mx.argmax(scaled + noise, axis=-1)
    if len(drawn) == len(rows):
        return sampled
    return mx.put_along_axis(greedy, mx.array(drawn, dtype=greedy.dtype), sampled, axis=0)


def _filtered(scaled: mx.array, params: Sequence[Sampling]) -> mx.array:
    """``scaled`` [B, V] with everything outside top_k, top_p and min_p at minus infinity."""
    sorting = [i for i, p in enumerate(params) if p.top_k > 0 or p.top_p < 1.0]
    floor: list[mx.array] = [mx.array(-mx.inf)] * len(params)
    if sorting:
        subset = scaled if len(sorting) == len(params) else scaled[mx.array(sorting)]
        down = -mx.sort(-subset, axis=-1)
        probs = mx.softmax(down, axis=-1)
        before = mx.cumsum(probs, axis=-1) - probs  # mass of the likelier ones
        width = down.shape[-1]
        for at, i in enumerate(sorting):
            p = params[i]
            last = width if p.top_k <= 0 else min(p.top_k, width)
            kept = mx.minimum(mx.sum(before[at] < p.top_p), last) if p.top_p < 1.0 else mx.array(last)
            floor[i] = down[at][mx.maximum(kept - 1, 0)]
    for i, p in enumerate(params):
        if p.min_p > 0:
            floor[i] = mx.maximum(floor[i], mx.max(scaled[i]) + math.log(p.min_p))
    if not sorting and not any(p.min_p > 0 for p in params):
        return scaled
    return mx.where(scaled >= mx.stack(floor)[:, None], scaled, -mx.inf)


def adjusted(logits: mx.array, row: Sampling, prompt: Sequence[int], answer: Sequence[int]) -> mx.array:
    """One row's ``logits`` [V] after repetition, presence and frequency penalties and logit bias.

    Repetition counts prompt and answer (as in Keskar et al. 2019); the other two the answer, as OpenAI's do.
    """
    if row.repetition_penalty != 1.0 and (prompt or answer):
        seen = mx.array(sorted(set(prompt) | set(answer)))
        old = logits[seen]
        new = mx.where(old > 0, old / row.repetition_penalty, old * row.repetition_penalty)
        logits = mx.put_along_axis(logits, seen, new.astype(logits.dtype), axis=0)
    if answer and (row.presence_penalty or row.frequency_penalty):
        counts: dict[int, int] = {}
        for token in answer:
            counts[token] = counts.get(token, 0) + 1
        ids = mx.array(list(counts))
        cost = mx.array([row.presence_penalty + row.frequency_penalty * n for n in counts.values()])
        logits = mx.put_along_axis(logits, ids, (logits[ids] - cost).astype(logits.dtype), axis=0)
    if row.logit_bias:
        ids = mx.array([i for i, _ in row.logit_bias])
        bias = mx.array([b for _, b in row.logit_bias])
        logits = mx.put_along_axis(logits, ids, (logits[ids] + bias).astype(logits.dtype), axis=0)
    return logits


def logprobs_of(logits: mx.array, tokens: mx.array, top: int) -> tuple[mx.array, mx.array | None, mx.array | None]:
    """Log-probabilities of ``tokens`` [B] under raw ``logits`` [B, V], and the ``top`` likeliest (ids, values)."""
    wide = logits.astype(mx.float32)
    total = mx.logsumexp(wide, axis=-1, keepdims=True)
    chosen = (mx.take_along_axis(wide, tokens[:, None], axis=-1) - total)[:, 0]
    if not top:
        return chosen, None, None
    part = mx.argpartition(-wide, top - 1, axis=-1)[:, :top]
    values = mx.take_along_axis(wide, part, axis=-1)
    order = mx.argsort(-values, axis=-1)
    ids = mx.take_along_axis(part, order, axis=-1)
    return chosen, ids, mx.take_along_axis(values, order, axis=-1) - total
