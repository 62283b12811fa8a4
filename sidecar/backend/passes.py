"""Forward passes over a model: a prompt on its way into the cache, piece by piece, and rows being decoded.

Prompts go through mlx-vlm's ``PromptProcessingBatch``. Its stepping is used, but never its sampling: the last pass is
done here and gives the raw scores, so that each row chooses by its own parameters. What it doesn't cut to the piece
that is processed is cut here: positions, whose last axis is that of the tokens, and lists that are aligned to the
pictures' tokens (``deepstack_visual_embeds``: without this each piece adds the features of the first picture again).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.generate import ar
from mlx_vlm.generate.common import _chunked_prefill_enabled

from sidecar.backend import caches, mixing
from sidecar.backend.caches import KVQuantization
from sidecar.backend.positions import Embedded, Positions
from sidecar.backend.repairs import rows_of

_FROM_ENCODER = ("cross_attention_states", "encoder_outputs")

_MIXABLE = frozenset({"position_ids", "rope_deltas", "visual_pos_masks", "deepstack_visual_embeds"})
_UNREAD = frozenset({"image_grid_thw", "video_grid_thw", "pixel_attention_mask", "image_sizes", "mm_token_type_ids"})
"""Inputs of a prompt that a mixed pass carries, and those that only a picture's encoder reads."""


@dataclass(frozen=True)
class RowState:
    """What rows need beside their caches. ``rope_deltas`` [B, 1]; ``carried``: an encoder's states, of a single row."""

    rope_deltas: mx.array | None = None
    carried: dict[str, Any] = field(default_factory=dict)
    positions: Positions = field(default_factory=Positions)

    def joins(self, other: RowState) -> bool:
        """Return whether rows with this state can be decoded in one pass with rows of another's."""
        if self.carried or other.carried:
            return False
        return (self.rope_deltas is None) == (other.rope_deltas is None)

    def joined(self, other: RowState) -> RowState:
        """Return the state of these rows and then the other's."""
        if self.rope_deltas is None or other.rope_deltas is None:
            return RowState()
        return RowState(mx.concatenate([self.rope_deltas, other.rope_deltas]))

    def take(self, index: mx.array) -> RowState:
        """Return the state of some of the rows."""
        return RowState(None if self.rope_deltas is None else self.rope_deltas[index], self.carried)


class PromptBatch:
    """One prompt, or several padded on the left to the length of the longest. Lengths count embeddings, not tokens."""

    def __init__(
        self,
        model: Any,
        ids: Sequence[int],
        tokens: Sequence[list[int]],
        prompts: Sequence[Embedded],
        *,
        whole: bool = False,
        cache: list[Any] | None = None,
        start: int = 0,
        quantization: KVQuantization | None = None,
    ) -> None:
        """``ids``: a number for each prompt; ``tokens``: its ids; ``prompts``: what ``positions.embed`` gave for it.

        ``whole``: never in pieces. ``start``: tokens already in ``cache`` (a kept prefix of a single prompt).
        """
        # The language model itself: the whole model would embed the tokens anew and lose the images.
        self._lm = getattr(model, "language_model", model)
        self._total = max(p.length for p in prompts)
        self._state = prompts[0].positions if len(prompts) == 1 else Positions()
        embeds, kwargs = prompts[0].embeds, dict(prompts[0].kwargs)
        if len(prompts) > 1:
            merge = [{**p.kwargs, "inputs_embeds": p.embeds} for p in prompts]
            embeds, kwargs = ar._merge_prefill_prompt_kwargs(merge, tokens)
        self._single_positions = kwargs.pop("position_ids", None) if len(prompts) == 1 else None
        kwargs = {k: self._from(k, v, start) for k, v in kwargs.items()}
        if start:  # the pictures are all in the prefix
            kwargs = {k: v for k, v in kwargs.items() if not _by_picture_token(v)}
        self._batch = ar.PromptProcessingBatch(
            model=self._lm,
            uids=list(ids),
            input_ids=[_filled(t, p.length)[start:] for t, p in zip(tokens, prompts, strict=True)],
            max_tokens=[1] * len(tokens),
            inputs_embeds=embeds[:, start:],
            prompt_kwargs=kwargs,
            prefill_step_size=256,
            warm_cache=cache,
            **(quantization or KVQuantization()).kwargs(),
        )
        self.reserved = False  # whether the cache has room for the whole prompt
        if cache is not None:
            self._grow()
        # mlx-vlm asks the language model alone here; some families' rule stands on the whole model.
        self.whole = whole or self._batch.prefill_step_size is None or not self._may_be_cut(model)

    def _from(self, name: str, value: Any, start: int) -> Any:
        """Return an input of the language model without its first ``start`` tokens, where it has tokens."""
        if start and isinstance(value, mx.array) and ar._is_sequence_aligned_prompt_kwarg(name, value, self._total):
            return ar._slice_sequence_aligned_prompt_kwarg(name, value, start=start)
        return value

    def _may_be_cut(self, model: Any) -> bool:
        """Return whether the whole model's own rule lets these prompts be processed in pieces."""
        batch = self._batch
        return bool(
            _chunked_prefill_enabled(
                model,
                input_ids=batch._input_ids,
                inputs_embeds=batch._inputs_embeds,
                prompt_cache=batch.prompt_cache,
                prefill_kwargs=batch._prompt_kwargs,
            )
        )

    @property
    def remaining(self) -> int:
        """Embeddings still to process, of the longest prompt."""
        return int(self._batch._inputs_embeds.shape[1])

    @property
    def processed(self) -> int:
        """Embeddings in the cache, padding included."""
        return self._total - self.remaining

    @property
    def cache(self) -> list[Any]:
        """The caches, a row for each prompt."""
        return list(self._batch.prompt_cache)

    @property
    def mixes(self) -> bool:
        """Whether its pieces can share a pass with rows: all its inputs are known to be cut token by token."""
        return not self.whole and set(self._batch._prompt_kwargs) <= _MIXABLE | _UNREAD

    def piece(self, tokens: int) -> mixing.Tokens:
        """Return the next ``tokens`` of it for a mixed pass; call ``took`` when that is done."""
        batch = self._batch
        kwargs, deltas = batch._prompt_kwargs, None
        embeds = batch._inputs_embeds[:, :tokens]
        positions = self._single_positions
        if positions is not None:
            positions = positions[..., self.processed : self.processed + tokens]
        elif (positions := kwargs.get("position_ids")) is not None:
            positions = positions[..., :tokens]
        if positions is not None:
            positions = mx.broadcast_to(positions, (3, *embeds.shape[:2]))
            deltas = batch._capture_rope_deltas_from_prompt_kwargs(kwargs, self._lm, len(batch.uids))
            deltas = mx.zeros((len(batch.uids), 1), dtype=positions.dtype) if deltas is None else deltas
        return mixing.Tokens(batch.prompt_cache, embeds, positions, deltas, self._pictures(tokens))

    def _pictures(self, tokens: int) -> tuple[mx.array, list[mx.array]] | None:
        """Return which of the next tokens are a picture's, and their features; None where none is."""
        mask, features = (self._batch._prompt_kwargs.get(n) for n in ("visual_pos_masks", "deepstack_visual_embeds"))
        if mask is None or features is None:
            return None
        mask = mask[:, :tokens]
        used = int(np.count_nonzero(np.array(mask)))
        return (mask, [f[:used] for f in features]) if used else None

    def took(self, tokens: int) -> None:
        """Note that a mixed pass has processed the next ``tokens``."""
        batch = self._batch
        pictures = self._pictures(tokens)
        if pictures is not None:
            used = pictures[1][0].shape[0]
            batch._prompt_kwargs = {k: _without_first(v, used) for k, v in batch._prompt_kwargs.items()}
        batch._inputs_embeds, batch._input_ids = batch._inputs_embeds[:, tokens:], batch._input_ids[:, tokens:]
        batch._processed_prompt_columns += tokens
        self._grow()
        for key in batch._prompt_length_aware_keys:
            sliced = ar._slice_sequence_aligned_prompt_kwarg(key, batch._prompt_kwargs[key], start=tokens)
            batch._prompt_kwargs[key] = sliced

    def row_state(self, piece: mixing.Tokens) -> RowState:
        """Return the state of the rows when ``piece`` was the last of the prompt."""
        return RowState(piece.deltas, {}, self._state)

    def drop(self, number: int) -> None:
        """Take one of several prompts out."""
        self._batch.remove(number)

    def step(self, tokens: int) -> None:
        """Process up to ``tokens`` more, all but the last one."""
        batch, before = self._batch, self.processed
        seen = batch._prompt_kwargs.get("visual_pos_masks")
        count = min(max(1, tokens), self.remaining - 1)
        batch.prefill_step_size = count
        self._put_positions(count)
        with self._state.installed(self._lm), rows_of(batch.prompt_cache):
            batch.prompt_step()
            mx.eval([c.state for c in batch.prompt_cache])
        self._grow()
        if isinstance(seen, mx.array) and seen.ndim == 2 and seen.shape[1] > self.remaining:
            used = int(np.count_nonzero(np.array(seen[:, : self.processed - before])))
            batch._prompt_kwargs = {k: _without_first(v, used) for k, v in batch._prompt_kwargs.items()}

    def _grow(self) -> None:
        """Make room for all that is left, at once: piece by piece the cache was copied for each 256 tokens."""
        self.reserved = caches.grow(self._batch.prompt_cache, self.remaining)

    def _put_positions(self, count: int) -> None:
        """Give the next pass the positions of its ``count`` tokens."""
        if self._single_positions is not None:
            part = self._single_positions[..., self.processed : self.processed + count]
            self._batch._prompt_kwargs["position_ids"] = part

    def finish(self, *, cut: bool = False) -> tuple[mx.array, RowState]:
        """Process all that is left; return the scores of the first answer tokens [B, V] and the rows' state.

        ``cut``: the model was prepared (``mixing.install``) to compute no other tokens' scores.
        """
        batch = self._batch
        self._put_positions(self.remaining)
        kwargs = {**batch._prompt_kwargs, "logits_to_keep": 1}
        only = mixing.last_token() if cut else contextlib.nullcontext()
        with only, self._state.installed(self._lm), rows_of(batch.prompt_cache):
            output = self._lm(batch._input_ids, cache=batch.prompt_cache, inputs_embeds=batch._inputs_embeds, **kwargs)
            deltas = batch._capture_rope_deltas_from_prompt_kwargs(kwargs, self._lm, len(batch.uids))
        logits = getattr(output, "logits", output)[:, -1, :]
        carried = {n: v for n in _FROM_ENCODER if (v := getattr(output, n, None)) is not None}
        return logits, RowState(deltas, carried, self._state)

    def evaluate(self, state: RowState) -> None:
        """Finish what is still being computed of the last pass."""
        mx.eval([c.state for c in self._batch.prompt_cache], [] if state.rope_deltas is None else state.rope_deltas)


def _filled(tokens: list[int], length: int) -> list[int]:
    """Return a prompt's ids with the last one repeated, where it has more embeddings than tokens."""
    return tokens + [tokens[-1]] * (length - len(tokens))


def _by_picture_token(value: Any) -> bool:
    """Return whether an input is a list of arrays with a line for each token of a picture."""
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(v, mx.array) for v in value)


def _without_first(value: Any, used: int) -> Any:
    return [v[used:] for v in value] if used and _by_picture_token(value) else value


def decode(language: Any, ids: mx.array, cache: list[Any], state: RowState) -> mx.array:
    """Return the scores [B, N, V] after ``ids`` [B, N], which follow what is in ``cache`` for B rows."""
    kwargs: dict[str, Any] = dict(state.carried)
    if state.rope_deltas is not None:
        kwargs["rope_deltas"] = state.rope_deltas
        state.positions.kept["_rope_deltas"] = state.rope_deltas
    with state.positions.installed(language), rows_of(cache):
        output = language(ids, cache=cache, **kwargs)
    scores: mx.array = getattr(output, "logits", output)
    return scores


def decoding_tokens(model: Any, ids: mx.array, cache: list[Any], state: RowState) -> mixing.Tokens:
    """Return the last tokens ``ids`` [B] of rows for a mixed pass."""
    language = getattr(model, "language_model", model)
    with state.positions.installed(language):
        embeds = model.get_input_embeddings(ids[:, None], None).inputs_embeds
    positions = None
    if state.rope_deltas is not None:
        at = cache[0].offset
        at = at.reshape(-1, 1) if isinstance(at, mx.array) and at.ndim else mx.full((len(ids), 1), at, dtype=mx.int32)
        positions = mx.broadcast_to(at + state.rope_deltas, (3, len(ids), 1))
    return mixing.Tokens(cache, embeds, positions, state.rope_deltas)


def mixed(language: Any, parts: Sequence[mixing.Tokens], scored: Sequence[mixing.Tokens]) -> mx.array:
    """Process ``parts`` in one pass; return the scores [B, V] after the last token of each sequence of ``scored``."""
    wanted, start = [], 0
    for part in parts:
        rows, length = part.shape
        if any(part is one for one in scored):
            wanted += [start + row * length + length - 1 for row in range(rows)]
        start += rows * length
    return mixing.forward(language, parts, wanted)
