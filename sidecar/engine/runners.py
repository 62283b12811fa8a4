"""Puts together what runs one loaded model. Imports MLX: only for the engine's thread."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.backend.caches import KVQuantization
from sidecar.backend.loader import LoadedModel
from sidecar.config import Settings
from sidecar.engine import memory, speculation
from sidecar.engine.admission import Layer, Ledger
from sidecar.engine.kept import Kept
from sidecar.engine.metrics import Meter
from sidecar.engine.prefix_cache import PrefixCache
from sidecar.engine.room import Room
from sidecar.engine.runner import ModelRunner
from sidecar.engine.scheduler import Policy
from sidecar.engine.units import UnitLog
from sidecar.errors import LoadError


def runner_of(
    loaded: LoadedModel,
    settings: Settings,
    *,
    meter: Meter,
    poll: Callable[[], None],
    units: UnitLog,
    kept: Kept | None = None,
) -> ModelRunner:
    """Return what runs a model as the settings say. Raises LoadError where they can't be had with it."""
    try:
        kv = KVQuantization.of(settings.kv_bits, loaded.config)
    except ValueError as exc:
        raise LoadError(f"{loaded.path.name} can't be served with a quantized KV cache: {exc}.") from exc
    if settings.speculative_tokens:
        try:
            speculation.check(loaded.model)
        except ValueError as exc:
            raise LoadError(f"{loaded.path.name} can't be served with guessed tokens: {exc}.") from exc
    policy = Policy(gap_bound=settings.gap_bound, least_batch_share=settings.batch_share, max_rows=settings.max_rows)
    policy.mixed_passes = settings.mixed_passes
    disk = kept.of(loaded.path) if kept is not None else None
    prefixes = PrefixCache(memory.prefix_limit(settings.prefix_cache_mb), disk.prefixes if disk else None)
    guess = memory.kv_bytes_per_token(loaded.config)
    ledger = Ledger(
        memory.kv_limit,
        [Layer(per_token=guess)],
        alone=memory.kv_limit_alone,
        value=memory.vision_bytes_per_value(loaded.config),
        heard=memory.hearing_bytes_per_value(loaded.config),
    )
    return ModelRunner(
        loaded,
        policy=policy,
        prefix_cache=prefixes,
        meter=meter,
        kv=kv,
        guesses=settings.speculative_tokens,
        poll=poll,
        room=Room(ledger, prefixes, most=memory.kv_most(), a_pass=memory.pass_bytes_per_token(loaded.config)),
        units=units,
        disk=disk.features if disk else None,
    )
