"""One prompt on its way into the cache, a chunk at a time, and the row it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_vlm.generate import ar

from sidecar.requests import GenerationRequest, Token
from sidecar.rows import Chosen, Row, select, tokens_of

_DROPPED_INPUTS = frozenset({"input_ids", "pixel_values", "attention_mask"})


@dataclass(frozen=True, kw_only=True)
class KVQuantization:
    """How the KV cache is quantized, if at all."""

    bits: int = 0
    group_size: int = 64

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


class Prefill:
    """A prompt being processed. ``start``: tokens already in ``cache`` (a kept prefix), not processed again."""

    def __init__(
        self,
        model: Any,
        request: GenerationRequest,
        embeds: mx.array,
        kwargs: dict[str, Any],
        *,
        cache: list[Any] | None = None,
        start: int = 0,
        quantization: KVQuantization | None = None,
    ) -> None:
        self.request = request
        self.cached_tokens = start
        tokens = [*request.prompt.tokens, *request.resumed]
        self._total = len(tokens)
        # The language model itself: the whole model would embed the tokens anew and lose the images.
        self._lm = getattr(model, "language_model", model)
        if start:
            kwargs = {
                k: ar._slice_sequence_aligned_prompt_kwarg(k, v, start=start)
                if isinstance(v, mx.array) and ar._is_sequence_aligned_prompt_kwarg(k, v, self._total)
                else v
                for k, v in kwargs.items()
            }
        self._batch = ar.PromptProcessingBatch(
            model=self._lm,
            uids=[request.id],
            input_ids=[tokens[start:]],
            max_tokens=[request.max_tokens],
            inputs_embeds=embeds[:, start:],
            prompt_kwargs=kwargs,
            prefill_step_size=256,
            warm_cache=cache,
            **(quantization or KVQuantization()).kwargs(),
        )
        self._whole = self._batch.prefill_step_size is None

    @property
    def remaining(self) -> int:
        """Prompt tokens still to process."""
        return int(self._batch._inputs_embeds.shape[1])

    @property
    def whole(self) -> bool:
        """Whether this model can't take this prompt in chunks."""
        return self._whole

    @property
    def cache(self) -> list[Any]:
        """The key-value caches so far, one row."""
        return list(self._batch.prompt_cache)

    @property
    def processed(self) -> int:
        """Prompt tokens in the cache."""
        return self._total - self.remaining

    @property
    def ready(self) -> bool:
        """Whether only ``finish`` is left."""
        return self._whole or self.remaining <= 1

    def step(self, tokens: int) -> bool:
        """Process up to ``tokens`` more, all but the last one; whether only ``finish`` is left."""
        if not self.ready:
            self._batch.prefill_step_size = max(1, tokens)
            self._batch.prompt_step()
            mx.eval([c.state for c in self._batch.prompt_cache])
        return self.ready

    def finish(self) -> tuple[Row, Token, list[Any], Chosen, mx.array | None]:
        """Process what is left and choose the first token: its row, the token, caches, choice, rope deltas."""
        batch = self._batch
        kwargs = {**batch._prompt_kwargs, "logits_to_keep": 1}
        output = self._lm(batch._input_ids, cache=batch.prompt_cache, inputs_embeds=batch._inputs_embeds, **kwargs)
        logits = getattr(output, "logits", output)[:, -1, :]
        rope = batch._capture_rope_deltas_from_prompt_kwargs(kwargs, self._lm, 1)
        row = Row(
            request=self.request,
            cached_tokens=self.cached_tokens,
            answer=list(self.request.resumed),
            launched=len(self.request.resumed),
            fed=len(self.request.resumed),
        )
        chosen = select(logits, [row])
        token = tokens_of(chosen, [row])[0]
        mx.eval([c.state for c in batch.prompt_cache], [] if rope is None else rope)
        return row, token, list(batch.prompt_cache), chosen, rope
