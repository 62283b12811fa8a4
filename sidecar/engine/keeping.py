"""Keeps the cache of a row that ends, as a prefix for the next turn."""

from __future__ import annotations

import logging

from sidecar.backend.loader import LoadedModel
from sidecar.engine.choosing import Row
from sidecar.engine.decoding import DecodeBatch
from sidecar.engine.prefix_cache import PrefixCache, key_of
from sidecar.engine.recovery import first_line
from sidecar.errors import check_memory

log = logging.getLogger("sidecar.engine")


def keep(loaded: LoadedModel, prefixes: PrefixCache, batch: DecodeBatch, row: Row) -> None:
    """Keep a row's cache, if this model's caches can be kept."""
    if loaded.can.keep or not row.countable or len(row.answer) < row.fed:
        return  # the last: the cache is ahead of what was read
    try:
        tokens = [*row.request.prompt.tokens, *row.answer[: row.fed]]
        cache, at = batch.place(row)
        key, _ = key_of(tokens, row.request.prompt.media, loaded.media_ids, row.request.salt)
        prefixes.store(key, cache, at, row.request.tier)
    except Exception as exc:
        check_memory(exc)
        if loaded.can.rule_out("keep", f"its caches can't be kept ({first_line(exc)})"):
            log.warning("no prefixes are kept of this model", exc_info=exc)
