"""How much memory MLX may use on this machine, bytes."""

from __future__ import annotations

import logging

import psutil

log = logging.getLogger("sidecar.engine")

_set = False


def total() -> int:
    """Memory MLX can use: the GPU's recommended working set on Metal, else the machine's."""
    import mlx.core as mx

    if mx.metal.is_available():
        size = mx.device_info().get("max_recommended_working_set_size")
        if size:
            return int(size)
    return int(psutil.virtual_memory().total)


def set_limits() -> None:
    """Bound MLX's memory and its cache of freed buffers, once."""
    global _set
    if _set:
        return
    import mlx.core as mx

    size = total()
    mx.set_memory_limit(int(size * 0.9))
    mx.set_cache_limit(min(size // 16, 2 << 30))
    _set = True


def prefix_limit(setting_mb: int) -> int:
    """Bytes for kept prefixes: the setting, or a tenth of memory for -1."""
    return total() // 10 if setting_mb < 0 else setting_mb << 20


def kv_limit() -> int:
    """Bytes all running requests' KV caches may take together: what weights leave of nine tenths of memory."""
    import mlx.core as mx

    free = min(total() * 0.9 - mx.get_active_memory(), psutil.virtual_memory().available * 0.8)
    return max(0, int(free))
