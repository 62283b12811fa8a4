"""Kept prompt prefixes: a next turn of a chat computes only what is new.

Entries are whole key-value caches of finished prompts and answers, found by the longest common prefix of
tokens, image content folded in. Bounded in bytes; the least recently used goes first, batch work's before
a chat's, so that batch work can't flush a chat's prefix. Used on the engine's thread alone.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from sidecar.backend import caches
from sidecar.engine.messages import Tier
from sidecar.engine.prefix_disk import LEAST, LEAST_GAIN, PrefixDisk, common

log = logging.getLogger("sidecar.engine")

MIN_TOKENS = 16  # shorter prefixes cost more to keep than to compute


@dataclass(eq=False, kw_only=True)
class Entry:
    """One kept sequence: its key tokens and caches."""

    key: tuple[int, ...]
    cache: list[Any]
    bytes: int
    tier: Tier
    trimmable: bool
    used: int = field(default=0)
    saved: bool = False  # or tried to


def key_of(tokens: Sequence[int], media: str, media_ids: frozenset[int], salt: str = "") -> tuple[tuple[int, ...], int]:
    """Return the key of a prompt, and how many of its tokens a kept prefix must have to be of use.

    Under different salts no two prompts have a common prefix: the first token bears the salt.

    Every media placeholder is replaced by the pictures' content, so that pictures never mix. A prefix that ends inside
    the pictures is of no use. Where no token stands for a picture (the configuration names none, or the processor puts
    others in its place) the first token bears the content, and no prefix is of use.
    """
    if salt:
        digest = blake2b(f"{tokens[0]} {salt}".encode(), digest_size=7).digest()
        key, least = key_of(tokens, media, media_ids)
        return (-1 - (1 << 62) - int.from_bytes(digest, "big"), *key[1:]), least
    if not media:
        return tuple(tokens), 0
    stand_in = -1 - int(media[:15], 16)
    last = max((i for i, token in enumerate(tokens) if token in media_ids), default=-1)
    if last < 0:
        return (stand_in, *tokens[1:]), len(tokens)
    return tuple(stand_in if t in media_ids else t for t in tokens), last + 1


def _size(cache: Sequence[Any]) -> int:
    return sum(int(c.nbytes) for c in cache)


class PrefixCache:
    """Kept prefixes of one model, at most ``limit`` bytes; 0 keeps none. ``disk``: where chats' are kept as well."""

    def __init__(self, limit: int, disk: PrefixDisk | None = None) -> None:
        self._limit = limit
        self._disk = disk if limit else None
        self._saving: tuple[Entry, Iterator[Future[Any]]] | None = None
        self._entries: list[Entry] = []
        self._told = False
        self._clock = itertools.count(1)
        self.affords: Callable[[int], bool] = lambda tokens: True
        """Returns whether there is room to copy a row of so many tokens."""

    @property
    def bytes(self) -> int:
        """Memory held by entries."""
        return sum(e.bytes for e in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def match(self, key: tuple[int, ...], *, at_least: int = 0) -> bool:
        """Return whether ``lookup`` would find something."""
        if self._best(key, at_least) is not None:
            return True
        return self._disk is not None and self._disk.longest(key)[1] >= max(MIN_TOKENS, at_least)

    def lookup(self, key: tuple[int, ...], *, at_least: int = 0) -> tuple[list[Any], int] | None:
        """Return the longest kept prefix of ``key`` as a cache of its own to go on from, and its length, or None.

        Leaves one token at least to compute; ``at_least``: a shorter prefix is of no use (images).
        """
        found = self._best(key, at_least)
        if self._disk is not None:
            beyond = found[1] + LEAST_GAIN if found is not None else 0
            if (kept := self._disk.load(key, at_least=max(MIN_TOKENS, at_least), beyond=beyond)) is not None:
                return kept
        if found is None:
            return None
        best, length = found
        cache = caches.shared(best.cache, length)
        if cache is None:
            return None
        best.used = next(self._clock)
        return cache, length

    def _best(self, key: tuple[int, ...], at_least: int) -> tuple[Entry, int] | None:
        best: Entry | None = None
        length = 0
        for entry in self._entries:
            n = min(common(entry.key, key), len(key) - 1)
            if not entry.trimmable and n < len(entry.key):
                continue
            if n > length:
                best, length = entry, n
        if best is None or length < max(MIN_TOKENS, at_least):
            return None
        return best, length

    def store(
        self, key: tuple[int, ...], cache: Sequence[Any], row: int, tier: Tier, *, given_up: bool = False
    ) -> None:
        """Keep row ``row`` of ``cache``, which holds exactly the tokens of ``key``; as much of its start as fits.

        ``given_up``: nobody else has use for the cache: where it can be it is kept itself, and nothing is copied.
        """
        if len(key) < MIN_TOKENS or not self._limit or self._keeps(key, tier):
            return
        copy = caches.given_up(cache, len(key)) if given_up else None
        if copy is None and self.affords(len(key)):
            copy = caches.snapshot(cache, row)
        if copy is None:
            return
        size = _size(copy)
        if size > self._limit:
            whole = len(key)
            key, copy = self._start(key, copy, size)
            if not self._told:
                self._told = True
                log.info(
                    "a conversation of %d tokens takes %d MB, and kept prefixes may take %d: its first %d tokens are"
                    " kept (--prefix-cache-mb)",
                    *(whole, size >> 20, self._limit >> 20, len(key) if copy is not None else 0),
                )
            if copy is None or self._keeps(key, tier):
                return
            size = _size(copy)
        self._entries = [
            e for e in self._entries if not (e.trimmable and common(e.key, key) == len(e.key) and e.tier >= tier)
        ]
        trimmable = caches.can_be_cut(copy, len(key))
        entry = Entry(key=key, cache=copy, bytes=size, tier=tier, trimmable=trimmable, used=next(self._clock))
        self._entries.append(entry)
        self.shrink(self._limit)

    def _keeps(self, key: tuple[int, ...], tier: Tier) -> bool:
        """Return whether a sequence is kept already, as part of a longer one; that one was used now, then."""
        for entry in self._entries:
            if len(entry.key) >= len(key) and common(entry.key, key) == len(key):
                entry.used = next(self._clock)
                entry.tier = min(entry.tier, tier)
                return True
        return False

    def _start(self, key: tuple[int, ...], cache: list[Any], size: int) -> tuple[tuple[int, ...], list[Any] | None]:
        """Return the longest start of a sequence that fits, and its cache; None where no start is of use.

        A start that ends before the last picture would never be used.
        """
        length = int(len(key) * self._limit / size)
        while (
            length >= MIN_TOKENS and not any(token < 0 for token in key[length:]) and caches.can_be_cut(cache, len(key))
        ):
            cut = caches.clone(cache, length)
            if cut is None:
                break
            if _size(cut) <= self._limit:
                return key[:length], cut
            length -= 1 + length // 8  # buffers grow in steps
        return key, None

    def save(self, done: Callable[[], None]) -> bool:
        """Bring a block more of what chats left to the disk; call when there is nothing else to do.

        Returns whether one is on its way; ``done`` is called, on another thread, when it is there.
        """
        while self._disk is not None and not self._disk.writing:
            if self._saving is None:
                chats = [e for e in self._entries if e.tier is Tier.INTERACTIVE and e.trimmable and not e.saved]
                entry = max(chats, key=lambda e: e.used, default=None)
                if entry is None:
                    return False
                entry.saved = True
                if len(entry.key) < LEAST:
                    continue
                self._saving = entry, self._disk.save(entry.key, entry.cache)
            entry, blocks = self._saving
            block = next(blocks, None) if entry in self._entries else None
            if block is not None:
                block.add_done_callback(lambda _: done())
                return True
            self._saving = None
        return self._disk is not None

    def shrink(self, limit: int) -> None:
        """Drop entries until at most ``limit`` bytes are held."""
        while self._entries and self.bytes > limit:
            self._entries.remove(min(self._entries, key=lambda e: (-e.tier, e.used)))

    def clear(self) -> None:
        """Drop all."""
        self._entries.clear()
