"""From a prompt's tokens and pictures to embeddings and positions, of one request alone.

Many language models keep the positions of the prompt they saw last in attributes of their own (``_position_ids``,
``_rope_deltas``) and fall back on them when they are given none. mlx-vlm serves one prompt after another, so there it
does no harm; here prompts and rows of several requests take turns. So the state belongs to the request: it is taken
after each of its passes and put back before the next (``installed``), and where the model can compute the positions of
a whole prompt (``get_rope_index``), they are passed to it and nothing is left to the state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

_DROPPED_INPUTS = frozenset({"input_ids", "pixel_values", "attention_mask"})
_STATE = ("_position_ids", "_rope_deltas")


@dataclass(eq=False)
class Positions:
    """What a language model remembers of one request's positions, by attribute."""

    kept: dict[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def installed(self, language: Any) -> Iterator[None]:
        """Let the model see this request's state and no other's while the block runs."""
        names = [name for name in _STATE if hasattr(language, name)]
        for name in names:
            setattr(language, name, self.kept.get(name))
        try:
            yield
        finally:
            self.kept = {name: getattr(language, name) for name in names}


@contextlib.contextmanager
def put_aside(language: Any) -> Iterator[None]:
    """Keep what the model remembers of the pass now running while the block, in its midst, runs others."""
    kept = {name: getattr(language, name) for name in _STATE if hasattr(language, name)}
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(language, name, value)


@dataclass(frozen=True)
class Embedded:
    """A prompt's embeddings [1, L, D], the language model's other inputs and its state of positions."""

    embeds: mx.array
    kwargs: dict[str, Any]
    positions: Positions

    @property
    def length(self) -> int:
        """How many embeddings there are: more than tokens, where a model puts many in place of one."""
        return int(self.embeds.shape[1])


def embed(
    model: Any,
    tokens: Sequence[int],
    inputs: Mapping[str, Any] | None = None,
    *,
    media: str = "",
    vision_cache: Any = None,
) -> Embedded:
    """Embed a whole prompt, pictures included.

    ``inputs``: the processor's arrays, which may be of fewer tokens than ``tokens`` (an answer resumed).
    ``media``: the pictures' digest, by which ``vision_cache`` knows their features.
    """
    language = getattr(model, "language_model", model)
    ids = mx.array([list(tokens)])
    inputs = lengthened(inputs or {}, len(tokens))
    pixels = inputs.get("pixel_values")
    mask = inputs.get("attention_mask")
    extra = {k: v for k, v in inputs.items() if k not in _DROPPED_INPUTS}
    private: dict[str, Any] = {}
    if pixels is not None and vision_cache is not None:
        private = {"vision_cache": vision_cache, "_image_key": media}
    positions = Positions()
    with positions.installed(language):
        features = model.get_input_embeddings(ids, pixels, mask=mask, **extra, **private)
    kwargs = {**extra, **{k: v for k, v in features.to_dict().items() if v is not None}}
    embeds: mx.array = kwargs.pop("inputs_embeds")
    if "position_ids" not in kwargs and embeds.shape[1] == len(tokens):
        _add_positions(language, ids, mask, kwargs, positions)
    mx.eval(embeds)
    return Embedded(embeds, kwargs, positions)


def lengthened(inputs: Mapping[str, Any], length: int) -> dict[str, Any]:
    """Return a processor's arrays as they would be with text after their tokens, ``length`` tokens in all.

    An attention mask goes on with ones and a mark of kinds with zeros [1, L]; positions [..., L] count on; a mask of
    which picture a token sees [1, L, ...] repeats its last line.
    """
    ids = inputs.get("input_ids")
    have = int(ids.shape[1]) if isinstance(ids, mx.array) and ids.ndim == 2 else length
    if have >= length:
        return dict(inputs)
    more = length - have
    out = dict(inputs)
    for name, value in inputs.items():
        if not isinstance(value, mx.array) or value.ndim < 2 or value.shape[0] != 1:
            continue
        if name == "position_ids" and value.shape[-1] == have:
            added = mx.broadcast_to(mx.arange(have, length), (*value.shape[:-1], more))
            out[name] = mx.concatenate([value, added.astype(value.dtype)], axis=-1)
        elif value.ndim == 2 and value.shape[1] == have:
            fill = mx.ones if name == "attention_mask" else mx.zeros
            out[name] = mx.concatenate([value, fill((1, more), dtype=value.dtype)], axis=1)
        elif value.ndim > 2 and value.shape[1] == have and "mask" in name:
            out[name] = mx.concatenate([value, mx.repeat(value[:, -1:], more, axis=1)], axis=1)
    return out


def _add_positions(
    language: Any, ids: mx.array, mask: mx.array | None, kwargs: dict[str, Any], positions: Positions
) -> None:
    """Compute the positions of a whole prompt where the model would take them from its state."""
    index = getattr(language, "get_rope_index", None)
    if index is None or not hasattr(language, "_rope_deltas"):
        return
    found, deltas = index(ids, kwargs.get("image_grid_thw"), kwargs.get("video_grid_thw"), mask)
    kwargs |= {"position_ids": found, "rope_deltas": deltas}
    # GLM looks whether there are deltas at all, and takes positions that are kept before those that are passed.
    positions.kept = {"_position_ids": None, "_rope_deltas": deltas}
