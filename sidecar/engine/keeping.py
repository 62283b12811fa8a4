"""Keeps the cache of a row that ends, as a prefix for the next turn, and of a prompt for its other choices."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sidecar.backend.loader import LoadedModel
from sidecar.engine.choosing import Row
from sidecar.engine.decoding import DecodeBatch
from sidecar.engine.prefill import Begun
from sidecar.engine.prefix_cache import PrefixCache, key_of
from sidecar.engine.recovery import first_line
from sidecar.engine.rows import GenerationRequest
from sidecar.errors import check_memory

log = logging.getLogger("sidecar.engine")

LEAST_SHARED = 32
"""Tokens of a prompt below which each choice of a job has it processed by itself, in one group."""


def keep(loaded: LoadedModel, prefixes: PrefixCache, batch: DecodeBatch, row: Row) -> None:
    """Keep a row's cache, if this model's caches can be kept."""
    if loaded.can.keep or not row.countable or len(row.answer) < row.fed:
        return  # the last: the cache is ahead of what was read
    try:
        tokens = [*row.request.prompt.tokens, *row.answer[: row.fed]]
        cache, at = batch.place(row)
        key, _ = key_of(tokens, row.request.prompt.media, loaded.media_ids, row.request.salt)
        prefixes.store(key, cache, at, row.request.tier, given_up=batch.company(row) == 1)
    except Exception as exc:
        check_memory(exc)
        if loaded.can.rule_out("keep", f"its caches can't be kept ({first_line(exc)})"):
            log.warning("no prefixes are kept of this model", exc_info=exc)


class OnePrefill:
    """A prompt of several choices is processed once: its other choices find it as a kept prefix.

    Until then they are not shown to the policy, which would process all in a group. Where a prompt couldn't be kept for
    them (a cache that can't be cut, too little room), this model's are processed in groups from then on.
    """

    def __init__(self, loaded: LoadedModel, prefixes: PrefixCache) -> None:
        self._loaded = loaded
        self._prefixes = prefixes
        self._works = True

    def waiting_for_it(self, waiting: Iterable[GenerationRequest], begun: Iterable[GenerationRequest]) -> set[int]:
        """Return the ids of waiting requests whose prompt another one has processed, or will have."""
        out: set[int] = set()
        if not self._works or self._loaded.can.keep:
            return out
        seen = {id(r.prompt) for r in begun if not r.resumed}
        for request in waiting:
            if request.resumed or len(request.prompt.tokens) < LEAST_SHARED:
                continue
            if id(request.prompt) in seen:
                out.add(request.id)
            seen.add(id(request.prompt))
        return out

    def done(self, begun: Begun, waiting: Iterable[GenerationRequest]) -> None:
        """Keep the prompts just processed that waiting requests have, too."""
        others = {id(r.prompt) for r in waiting}
        for at, row in enumerate(begun.rows):
            if self._works and id(row.request.prompt) in others and begun.tokens[at] is not None:
                self._works = self._keep(begun, at)

    def _keep(self, begun: Begun, at: int) -> bool:
        row, loaded = begun.rows[at], self._loaded
        prompt = row.request.prompt
        if loaded.can.keep or not row.countable or row.request.resumed:
            return True
        key, least = key_of(prompt.tokens, prompt.media, loaded.media_ids, row.request.salt)
        try:
            self._prefixes.store(key, begun.cache, at, row.request.tier)
        except Exception as exc:
            check_memory(exc)
            if loaded.can.rule_out("keep", f"its caches can't be kept ({first_line(exc)})"):
                log.warning("no prefixes are kept of this model", exc_info=exc)
            return False
        return len(prompt.tokens) < LEAST_SHARED or self._prefixes.match(key, at_least=least)
