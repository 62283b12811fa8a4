"""How much memory MLX may use on this machine, and how much a model takes. Bytes."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
from dataclasses import dataclass
from typing import Any

from sidecar.backend import heap
from sidecar.engine import machine

log = logging.getLogger("sidecar.engine")

_set = False
_PLANNED_CONTEXT = 4096  # tokens of KV cache a model must have room for to be of use
_WORK = 64 << 20  # activations, grammars, the tokenizer
_OVER = 1.05  # weights in memory, in sizes of their files


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a model is expected to take. ``kv``: the cache of one request of ``tokens``."""

    weights: int
    kv: int
    work: int
    tokens: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.work


def kv_bytes_per_token(config: dict[str, Any]) -> int:
    """Bytes of KV cache a token takes at 16 bits, from ``config.json``; 0 when it doesn't say.

    Layers that keep no cache of all tokens (sliding, linear) are counted as if they did: the estimate errs upwards.
    """
    for part in (config.get("text_config"), config.get("language_config"), config.get("llm_config"), config):
        if not isinstance(part, dict):
            continue
        layers = _number(part, "num_hidden_layers", "n_layer", "n_layers")
        heads = _number(part, "num_attention_heads", "n_head", "n_heads")
        hidden = _number(part, "hidden_size", "n_embd", "d_model")
        if not (layers and heads):
            continue
        rank = _number(part, "kv_lora_rank")
        if rank:
            return layers * (rank + _number(part, "qk_rope_head_dim")) * 2
        groups = _number(part, "num_key_value_heads") or heads
        width = _number(part, "head_dim") or hidden // heads
        return layers * groups * width * 2 * 2
    return 0


def _number(config: dict[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def estimate(config: dict[str, Any], weights: int, *, context: int) -> Estimate:
    """What a model with ``weights`` bytes of files takes with one request of a usual length."""
    tokens = min(context or _PLANNED_CONTEXT, _PLANNED_CONTEXT)
    kv = kv_bytes_per_token(config) * tokens
    return Estimate(weights=int(weights * _OVER), kv=kv, work=_WORK, tokens=tokens)


def room(held: int, *, limit: int = 0) -> int:
    """Bytes a further model may take beside models of ``held`` bytes. ``limit``: for all models, 0 = the machine's."""
    now = machine.memory()
    return room_of(machine.models_most(now.total), now.available, held, limit=limit)


def room_of(most: int, available: int, held: int, *, limit: int = 0) -> int:
    """``room`` for given readings. ``most``: what models may take together. Pure."""
    return max(0, min(min(limit or most, most) - held, int(available * 0.9)))


def give_back() -> None:
    """Return memory that is not used to the system. Engine thread."""
    import mlx.core as mx

    gc.collect()
    mx.clear_cache()
    heap.trim()


_LOOK = 0.1  # seconds
_looked = 0.0


def look(now: float) -> None:
    """Return freed memory to the system where little else is left. Engine thread, before each unit of work.

    What MLX and the C library keep for the next pass is of use while there is room: up to a sixteenth of memory. In a
    control group that is small it is looked at each time, so that the ledger sees what is there: of a gigabyte, 120 MB
    were neither used nor free. Elsewhere a few times a second at most.
    """
    global _looked
    bounded = machine.bounded()
    if now - _looked < _LOOK and not bounded:
        return
    _looked = now
    here = machine.memory()
    if "mlx.core" not in sys.modules:
        return
    if bounded:
        _mind(short=here.available < here.total // 4)
    if bounded and here.available < here.total // 8:
        heap.trim()
        here = machine.memory()
    if here.available < (_LEAST_RESERVE if bounded else RESERVE):
        give_back()


def _mind(*, short: bool) -> None:
    """Let MLX and the C library keep nothing of what is freed where memory is short, a sixteenth of it elsewhere.

    MLX keeps a cache's old buffers when it is joined, for no new one is of their size: that sixteenth was what killed
    engines, for it is neither in MLX's count of what is active nor free.
    """
    if short == heap.is_short():
        return
    import mlx.core as mx

    heap.mind(short=short)
    mx.set_cache_limit(0 if short else _freed(total()))
    if short:
        mx.clear_cache()


def _freed(size: int) -> int:
    return min(size // 16, 2 << 30)


def total() -> int:
    """Memory MLX can use: the GPU's recommended working set on Metal, else what the machine leaves this process."""
    import mlx.core as mx

    if mx.metal.is_available():
        size = mx.device_info().get("max_recommended_working_set_size")
        if size:
            return int(size)
    return machine.memory().total


def set_limits() -> None:
    """Bound MLX's memory and its cache of freed buffers, once; on Metal, keep what it holds from being paged out.

    mlx-vlm's own loops wire memory around each answer, and are not used here. The engine process wires it for as long
    as it lives, which is until 5 s after its last model is unloaded. macOS before 15 has no such limit.
    """
    global _set
    if _set:
        return
    import mlx.core as mx

    size = total()
    mx.set_memory_limit(int(size * 0.9))
    mx.set_cache_limit(_freed(size))
    if mx.metal.is_available():
        with contextlib.suppress(RuntimeError, ValueError):
            mx.set_wired_limit(size)
    if sys.platform == "linux":
        heap.keep_freed(_freed(size))
    _set = True


_peak = 0


def begin_peak() -> int:
    """Begin to measure anew how much MLX holds at most; return what it holds now. ``peak`` is none the less for it."""
    global _peak
    import mlx.core as mx

    _peak = peak()
    mx.reset_peak_memory()
    return int(mx.get_active_memory())


def peak() -> int:
    """Return the most that MLX has held in this process."""
    import mlx.core as mx

    return max(_peak, mx.get_peak_memory())


def peak_since() -> int:
    """Return the most that MLX has held since ``begin_peak``."""
    import mlx.core as mx

    return int(mx.get_peak_memory())


def over_now() -> int:
    """Return by how much MLX has held more since ``begin_peak`` than it does now."""
    import mlx.core as mx

    return max(0, int(mx.get_peak_memory() - mx.get_active_memory()))


def vision_bytes_per_value(config: dict[str, Any]) -> float:
    """Guess from ``config.json`` what a vision tower holds for each value of a picture; 0 when it doesn't say.

    A block's activations in float32, twice: what goes in, what comes out (160 for the starter, measured 272).
    """
    part = config.get("vision_config")
    if not isinstance(part, dict):
        return 0.0
    hidden = _number(part, "hidden_size", "embed_dim", "width")
    patch = _number(part, "patch_size")
    inner = _number(part, "intermediate_size") or 4 * hidden
    return 2 * 4 * (4 * hidden + 2 * inner) / (3 * patch * patch) if patch else 0.0


def hearing_bytes_per_value(config: dict[str, Any]) -> float:
    """Guess from ``config.json`` what an audio tower holds for each number of a spectrum; 0 when it doesn't say.

    As of a vision tower; a spectrum's frame has 80 to 128 numbers, and two or four of them become one of the tower's.
    """
    part = config.get("audio_config")
    if not isinstance(part, dict):
        return 0.0
    hidden = _number(part, "hidden_size", "d_model", "conf_hidden_size")
    inner = _number(part, "intermediate_size", "encoder_ffn_dim", "conf_intermediate_size") or 4 * hidden
    return 2 * 4 * (4 * hidden + 2 * inner) / (2 * 80)


def pass_bytes_per_token(config: dict[str, Any]) -> float:
    """Guess from ``config.json`` what a pass over a prompt holds for each token beside its cache; 64 KiB at least."""
    part = next((p for p in (config.get(n) for n in ("text_config", "language_config", "llm_config")) if p), config)
    hidden, inner = _number(part, "hidden_size", "n_embd", "d_model"), _number(part, "intermediate_size", "n_inner")
    return float(max(64 << 10, 2 * 4 * (4 * hidden + 2 * (inner or 4 * hidden))))


def prefix_limit(setting_mb: int) -> int:
    """Bytes for kept prefixes: the setting, or a tenth of memory for -1."""
    return total() // 10 if setting_mb < 0 else setting_mb << 20


RESERVE = 64 << 20
"""Bytes that are no cache's: a pass's activations, a grammar, what the allocator is not exact about."""

_RESERVE_BOUNDED = 44 << 20
"""The same in a control group, where caches that are made anew come from the system and nothing else is kept."""

_LEAST_RESERVE = 24 << 20
"""The same where one request runs alone and its passes are as small as they can be."""


def reserve() -> int:
    """Return the bytes that are left to what is no cache's."""
    return _RESERVE_BOUNDED if machine.bounded() else RESERVE


def kv_most() -> int:
    """Return the bytes that caches could have beside the models in memory, if nothing else ran."""
    import mlx.core as mx
    import psutil

    own = max(mx.get_active_memory(), psutil.Process().memory_info().rss)  # the interpreter is in it
    most = max(0, int(total() * 0.9) - own - RESERVE)
    # A group's memory is nobody else's: what is not free when a model has just been loaded never will be.
    return max(0, min(most, kv_limit())) if machine.bounded() else most


def kv_limit() -> int:
    """Return the bytes by which caches may grow now: over what MLX holds, within nine tenths of memory.

    Where other programs may want some of it a fifth of what is available is left to them; a control group's memory is
    nobody else's. Less than nothing where some of the reserve is in use: then somebody must make room.
    """
    import mlx.core as mx

    if machine.bounded():
        return scratch() - reserve()
    # Freed buffers are used again where their sizes fit: about half of them.
    available = machine.memory().available * 0.8 + mx.get_cache_memory() * 0.5
    free = min(total() * 0.9 - mx.get_active_memory(), available)
    return int(free) - RESERVE


def kv_limit_alone() -> int:
    """Return the bytes that the cache of a request which runs alone may grow by now.

    A control group's memory is nobody else's, so there all but a little of it. ``kv_most`` promises less: what a
    process grows by over days must not turn into refusals.
    """
    if not machine.bounded():
        return kv_limit()
    return max(0, scratch() - _LEAST_RESERVE)


def scratch() -> int:
    """Return the bytes that a piece of work may hold for a moment."""
    import mlx.core as mx

    available = machine.memory().available + mx.get_cache_memory() * 0.5
    return max(0, int(min(total() * 0.9 - mx.get_active_memory(), available)))
