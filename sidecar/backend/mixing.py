"""One forward pass for rows being decoded and for pieces of prompts: the weights are read once for all of them.

Theory of operation
-------------------
To a linear layer a token is a line of a matrix, whoever it belongs to; only attention asks which tokens came before it.
So every token of such a pass, a row's last one or one of a prompt, goes through the model as a batch row of its own
[N, 1, D], and for each layer a ``MixedLayer`` stands in for the cache: it tells each token's own position (``offset``),
writes keys and values into the caches they belong to (``update_and_fetch``), and lets each part attend by itself, in
the shape and with the mask that it has in a pass of its own. No key is copied, and no kernel is needed.

Two things of mlx-vlm are taken hold of for that, where the model is loaded (``install``): the name
``scaled_dot_product_attention`` in the modules its layers come from, and the class of its last layer, after which only
the tokens whose scores are wanted go on (the output layer of a small model is a fifth of its weights).

With two rows and a piece of three tokens, whose last one ends its prompt, the pass has N = 5:

    tokens     row A, row B | p5, p6, p7       offsets 40, 12 | 5, 6, 7
    attention  [2, H, 1, D] with A's and B's cache | [1, H, 3, D] with the prompt's, causal
    scores     row A, row B, p7

Whether a model bears that (recurrent states, attention of its own making, positions it remembers) is asked of it by the
self-check after a load: ``Capabilities.mix``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from sidecar.backend.positions import Positions
from sidecar.backend.repairs import rows_of

_wanted: mx.array | None = None  # of the pass now running: tokens whose scores are wanted
_last_only = False  # whether those are the last of each sequence [B, L, D]


@dataclass(frozen=True)
class Tokens:
    """Tokens of one part of a pass: ``rows`` [B] sequences of one cache with ``length`` new tokens each.

    ``embeds`` [B, L, D]; ``positions`` [3, B, L] where the model is given them; ``deltas`` [B, 1], rope deltas.
    ``pictures``: whether a token is one of a picture [B, L], and their features for each of the first layers.
    """

    cache: list[Any]
    embeds: mx.array
    positions: mx.array | None = None
    deltas: mx.array | None = None
    pictures: tuple[mx.array, list[mx.array]] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Sequences and new tokens of each."""
        return int(self.embeds.shape[0]), int(self.embeds.shape[1])


class _Parts(list[Any]):
    """A value for each part of a pass, where the model expects one array or mask."""


class MixedLayer:
    """The caches of one layer, of every part of a pass.

    ``first``: that of the first layer of the same kinds of caches, whose positions are this one's, too: to find them
    takes a dozen small operations, twice in each of thirty layers.
    """

    def __init__(
        self, caches: Sequence[Any], shapes: Sequence[tuple[int, int]], first: MixedLayer | None = None
    ) -> None:
        self._parts = list(zip(caches, shapes, strict=True))
        self._first = first
        self._start: mx.array | None = None
        self._written = False

    @property
    def offset(self) -> mx.array:
        """The position of each token [N]; after this pass's keys were written, of as many tokens behind them."""
        if self._written:
            return self._positions()
        if self._first is not None:
            return self._first.before
        return self.before

    @property
    def before(self) -> mx.array:
        """The position of each token [N], as it was before this pass wrote anything."""
        if self._start is None:
            self._start = self._positions()
        return self._start

    def _positions(self) -> mx.array:
        found = []
        for cache, (rows, length) in self._parts:
            first = cache.offset if isinstance(cache.offset, mx.array) else mx.array(cache.offset)
            found.append((mx.broadcast_to(first.reshape(-1, 1), (rows, 1)) + mx.arange(length)).reshape(-1))
        return mx.concatenate(found)

    @property
    def _idx(self) -> int:
        return max(int(getattr(cache, "_idx", 0) or 0) for cache, _ in self._parts)

    def make_mask(self, n: int, *args: Any, **kwargs: Any) -> _Parts:
        """Return each part's own mask. mlx-vlm calls it before the keys of the pass are written."""
        return _Parts(cache.make_mask(length, *args, **kwargs) for cache, (_, length) in self._parts)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[_Parts, _Parts]:
        """Write the keys and values [N, H, 1, D] of a pass into the caches they belong to."""
        self._written = True
        both = (self._apart(keys), self._apart(values))
        fetched = [c.update_and_fetch(k, v) for (c, _), k, v in zip(self._parts, *both, strict=True)]
        return _Parts(k for k, _ in fetched), _Parts(v for _, v in fetched)

    def _apart(self, whole: mx.array) -> list[mx.array]:
        """Cut [N, H, 1, D] into [B, H, L, D] for each part."""
        out, start = [], 0
        for _, (rows, length) in self._parts:
            piece = whole[start : start + rows * length]
            start += rows * length
            if length > 1:
                heads, width = piece.shape[1], piece.shape[3]
                piece = piece.reshape(rows, length, heads, width).transpose(0, 2, 1, 3)
            out.append(piece)
        return out

    def attend(
        self,
        own: Callable[..., mx.array],
        queries: mx.array,
        keys: Any,
        values: Any,
        scale: float,
        mask: Any,
        sinks: Any,
    ) -> mx.array:
        """Let each part attend by itself; return [N, H, 1, D]."""
        if not all(isinstance(each, _Parts) for each in (keys, values, mask)):
            raise TypeError("this model's attention makes keys or masks of its own")
        more = {} if sinks is None else {"sinks": sinks}
        out = []
        for (cache, (rows, length)), q, k, v, m in zip(
            self._parts, self._apart(queries), keys, values, mask, strict=True
        ):
            found = own(q, k, v, cache, scale=scale, mask=m, **more)
            if length > 1:
                found = found.transpose(0, 2, 1, 3).reshape(rows * length, found.shape[1], 1, found.shape[3])
            out.append(found)
        return mx.concatenate(out)


def layers_of(model: Any) -> list[Any]:
    """Return the layers of a model's language model; [] where they are not found."""
    language = getattr(model, "language_model", model)
    found = getattr(language, "layers", None) or getattr(getattr(language, "model", None), "layers", None)
    return list(found or ())


def install(model: Any) -> str:
    """Prepare a loaded model for mixed passes; return "" or the reason why it can't have them."""
    from mlx_vlm.models import base

    language = getattr(model, "language_model", model)
    layers = layers_of(model)
    if not layers:
        return "its layers were not found"
    modules = {type(m).__module__ for m in language.modules()}
    hooked = False
    for name in modules:
        module: Any = sys.modules.get(name)
        found = getattr(module, "scaled_dot_product_attention", None)
        if found is base.scaled_dot_product_attention:
            module.scaled_dot_product_attention = _attention
            found = _attention
        hooked = hooked or found is _attention
    if not hooked:
        return "its attention is of its own making"
    last = layers[-1]
    if not getattr(type(last), "cuts_tokens", False):
        last.__class__ = _cutting(type(last))
    return ""


def _attention(
    queries: mx.array, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: Any = None
) -> mx.array:
    from mlx_vlm.models import base

    own: Callable[..., mx.array] = base.scaled_dot_product_attention
    if isinstance(cache, MixedLayer):
        return cache.attend(own, queries, keys, values, scale, mask, sinks)
    return own(queries, keys, values, cache, scale=scale, mask=mask, sinks=sinks)


def _cutting(kind: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = kind.__call__(self, *args, **kwargs)
        if _last_only:
            return out[:, -1:]
        return out if _wanted is None else out[_wanted]

    return type(kind.__name__, (kind,), {"__call__": call, "cuts_tokens": True})


@contextlib.contextmanager
def put_aside() -> Iterator[None]:
    """Keep what the pass now running wants while the block, in its midst, runs others."""
    global _wanted, _last_only
    before, _wanted, _last_only = (_wanted, _last_only), None, False
    try:
        yield
    finally:
        _wanted, _last_only = before


@contextlib.contextmanager
def last_token() -> Iterator[None]:
    """Let a model that ``install`` prepared give the scores of the last tokens alone while the block runs."""
    global _last_only
    _last_only = True
    try:
        yield
    finally:
        _last_only = False


def _layers(caches: Sequence[Sequence[Any]], shapes: Sequence[tuple[int, int]]) -> list[MixedLayer]:
    """Return the caches of all parts layer by layer; layers of the same kinds share what is the same in all."""
    firsts: dict[tuple[Any, ...], MixedLayer] = {}
    out = []
    for layer in zip(*caches, strict=True):
        kinds = tuple((type(one), one.offset if isinstance(getattr(one, "offset", None), int) else 0) for one in layer)
        made = MixedLayer(layer, shapes, firsts.get(kinds))
        firsts.setdefault(kinds, made)
        out.append(made)
    return out


def forward(language: Any, parts: Sequence[Tokens], wanted: Sequence[int]) -> mx.array:
    """Process all parts in one pass; return the scores [len(wanted), V] after the tokens of those numbers, in order."""
    global _wanted
    kwargs: dict[str, Any] = {}
    flat = [part.embeds.reshape(-1, 1, part.embeds.shape[-1]) for part in parts]
    shapes = [part.shape for part in parts]
    positions = Positions()
    if all(part.positions is not None for part in parts):
        kwargs["position_ids"] = mx.concatenate([p.positions.reshape(3, -1, 1) for p in parts], axis=1)  # type: ignore[union-attr]
        deltas = [mx.repeat(p.deltas, p.shape[1], axis=0) for p in parts]  # type: ignore[arg-type]
        kwargs["rope_deltas"] = mx.concatenate(deltas)
        positions.kept = {"_position_ids": None, "_rope_deltas": kwargs["rope_deltas"]}
    if any(part.pictures is not None for part in parts):
        masks = [
            mx.zeros((rows * length, 1), dtype=mx.bool_) if p.pictures is None else p.pictures[0].reshape(-1, 1)
            for p, (rows, length) in zip(parts, shapes, strict=True)
        ]
        features = [part.pictures[1] for part in parts if part.pictures is not None]
        kwargs["visual_pos_masks"] = mx.concatenate(masks)
        kwargs["deepstack_visual_embeds"] = [mx.concatenate(list(layer)) for layer in zip(*features, strict=True)]
    embeds = mx.concatenate(flat)
    cache = _layers([part.cache for part in parts], shapes)
    ids = mx.zeros(embeds.shape[:2], dtype=mx.int32)
    _wanted = mx.array(list(wanted), dtype=mx.int32)
    try:
        with positions.installed(language), rows_of(cache):
            output = language(ids, cache=cache, inputs_embeds=embeds, **kwargs)
    finally:
        _wanted = None
    scores: mx.array = getattr(output, "logits", output)
    return scores[:, -1, :]
