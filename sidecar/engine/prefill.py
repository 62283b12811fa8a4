"""One prompt on its way into the cache, a chunk at a time, and the row it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_vlm.generate import ar

from sidecar.engine.decoding import Chosen, Row, select, tokens_of
from sidecar.engine.rows import GenerationRequest, Token
from sidecar.engine.scheduler import Prefilling

_DROPPED_INPUTS = frozenset({"input_ids", "pixel_values", "attention_mask"})


@dataclass(frozen=True, kw_only=True)
class KVQuantization:
    """How the KV cache is quantized, if at all."""

    bits: int = 0
    group_size: int = 64

    @classmethod
    def of(cls, bits: int, config: Mapping[str, Any]) -> KVQuantization:
        """``bits`` for the model of that configuration. Raises ValueError where its heads can't be quantized."""
        text = config.get("text_config") or config
        size = text.get("head_dim") or text.get("hidden_size", 0) // (text.get("num_attention_heads") or 1)
        group = next((g for g in (64, 32) if size and size % g == 0), 0)
        if bits and not group:
            raise ValueError(f"its heads have {size} values, not a multiple of 32; start without --kv-bits")
        return cls(bits=bits, group_size=group or 64)

    def kwargs(self) -> dict[str, Any]:
        """Arguments of mlx-vlm's prompt batch."""
        return {"kv_bits": self.bits, "kv_group_size": self.group_size} if self.bits else {}


def embed(model: Any, request: GenerationRequest, *, vision_cache: Any = None) -> tuple[mx.array, dict[str, Any]]:
    """Embeddings [1, L, D] of the whole prompt, images included, and the language model's other inputs."""
    prompt = request.prompt
    ids = mx.array([[*prompt.tokens, *request.resumed]])
    inputs = dict(prompt.inputs or {})
    pixels = inputs.get("pixel_values")
    mask = inputs.get("attention_mask")
    if mask is not None and request.resumed:
        mask = mx.concatenate([mask, mx.ones((1, len(request.resumed)), dtype=mask.dtype)], axis=1)
    extra = {k: v for k, v in inputs.items() if k not in _DROPPED_INPUTS}
    private: dict[str, Any] = {}
    if pixels is not None and vision_cache is not None:
        private = {"vision_cache": vision_cache, "_image_key": prompt.media}
    features = model.get_input_embeddings(ids, pixels, mask=mask, **extra, **private)
    kwargs = {**extra, **{k: v for k, v in features.to_dict().items() if v is not None}}
    embeds = kwargs.pop("inputs_embeds")
    mx.eval(embeds)
    return embeds, kwargs


@dataclass(frozen=True)
class Part:
    """One request's embeddings [1, L, D] and the language model's other inputs, as ``embed`` gives them."""

    request: GenerationRequest
    embeds: mx.array
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Begun:
    """A processed prompt, or a group of them: rows, their first tokens, caches [B rows], choice, rope deltas."""

    rows: list[Row]
    tokens: list[Token]
    cache: list[Any]
    chosen: Chosen
    rope: mx.array | None


class Prefill:
    """Prompts being processed together, most often one.

    ``start``: tokens already in ``cache`` (a kept prefix of a single prompt), not processed again. Several are
    padded on the left, as mlx-vlm's own batches are.
    """

    def __init__(
        self,
        model: Any,
        parts: Sequence[Part],
        *,
        cache: list[Any] | None = None,
        start: int = 0,
        quantization: KVQuantization | None = None,
    ) -> None:
        self.requests = [part.request for part in parts]
        self.cached_tokens = start
        tokens = [[*r.prompt.tokens, *r.resumed] for r in self.requests]
        self._total = max(len(ids) for ids in tokens)
        # The language model itself: the whole model would embed the tokens anew and lose the images.
        self._lm = getattr(model, "language_model", model)
        embeds, kwargs = parts[0].embeds, parts[0].kwargs
        if len(parts) > 1:
            merge = [{**part.kwargs, "inputs_embeds": part.embeds} for part in parts]
            embeds, kwargs = ar._merge_prefill_prompt_kwargs(merge, tokens)
        if start:
            kwargs = {
                k: ar._slice_sequence_aligned_prompt_kwarg(k, v, start=start)
                if isinstance(v, mx.array) and ar._is_sequence_aligned_prompt_kwarg(k, v, self._total)
                else v
                for k, v in kwargs.items()
            }
        self._batch = ar.PromptProcessingBatch(
            model=self._lm,
            uids=[r.id for r in self.requests],
            input_ids=[ids[start:] for ids in tokens],
            max_tokens=[r.max_tokens for r in self.requests],
            inputs_embeds=embeds[:, start:],
            prompt_kwargs=kwargs,
            prefill_step_size=256,
            warm_cache=cache,
            **(quantization or KVQuantization()).kwargs(),
        )
        self._whole = self._batch.prefill_step_size is None

    @property
    def remaining(self) -> int:
        """Prompt tokens still to process, of the longest."""
        return int(self._batch._inputs_embeds.shape[1])

    @property
    def whole(self) -> bool:
        """Whether this model can't take this prompt in chunks."""
        return self._whole

    @property
    def processed(self) -> int:
        """Prompt tokens in the cache, padding included."""
        return self._total - self.remaining

    @property
    def ready(self) -> bool:
        """Whether only ``finish`` is left."""
        return self._whole or self.remaining <= 1

    def seen(self) -> Prefilling:
        """Itself as the policy sees it."""
        first = self.requests[0]
        return Prefilling(
            id=first.id,
            tier=first.tier,
            priority=first.priority,
            arrived=first.arrived,
            remaining=self.remaining,
            rows=len(self.requests),
            whole=self.whole,
        )

    def drop(self, request_id: int) -> None:
        """Take one of several requests out."""
        self._batch.remove(request_id)
        self.requests = [r for r in self.requests if r.id != request_id]

    def step(self, tokens: int) -> bool:
        """Process up to ``tokens`` more, all but the last one; whether only ``finish`` is left."""
        if not self.ready:
            self._batch.prefill_step_size = max(1, tokens)
            self._batch.prompt_step()
            mx.eval([c.state for c in self._batch.prompt_cache])
        return self.ready

    def finish(self) -> Begun:
        """Process all that is left in one pass and choose the first tokens."""
        batch, count = self._batch, len(self.requests)
        kwargs = {**batch._prompt_kwargs, "logits_to_keep": 1}
        output = self._lm(batch._input_ids, cache=batch.prompt_cache, inputs_embeds=batch._inputs_embeds, **kwargs)
        logits = getattr(output, "logits", output)[:, -1, :]
        rope = batch._capture_rope_deltas_from_prompt_kwargs(kwargs, self._lm, count)
        rows = [
            Row(
                request=request,
                cached_tokens=self.cached_tokens,
                answer=list(request.resumed),
                launched=len(request.resumed),
                fed=len(request.resumed),
            )
            for request in self.requests
        ]
        chosen = select(logits, rows)
        tokens = tokens_of(chosen, rows)
        mx.eval([c.state for c in batch.prompt_cache], [] if rope is None else rope)
        return Begun(rows, tokens, list(batch.prompt_cache), chosen, rope)
