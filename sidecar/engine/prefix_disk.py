"""Kept prefixes on disk: a conversation goes on after everything was quit as if it hadn't been.

A sequence is kept in blocks of ``BLOCK`` tokens, each a file with its tokens and the keys and values of all layers. A
block's name is a keyed digest of its tokens and of the name of the block before it, so that what two conversations
share at the beginning is kept once, a turn writes what is new alone, and a prefix is found by computing names, with
nothing read. What is left after the last whole block is a block of its own; it goes when the conversation has grown
past it.

    a chat of 150 tokens:        [0…63] [64…127] [128…149]
    its next turn, 230 tokens:   [0…63] [64…127] [128…191] [192…229]      two are written, the old end is removed
    another question instead, that leaves the chat at token 140:
                                 [0…63] [64…127] [128…139 of the third]

The block in which a prompt leaves what is kept is of use up to there: what a token's keys and values are doesn't depend
on what follows it. A name begins with a digest of the block's first ``HEAD`` tokens, so that such a block is found;
how far it goes is known when it was read.

Only caches that hold every token's keys and values can be cut into blocks: what has a window or a state is kept in
memory alone. Blocks are written while the engine has nothing else to do, one at a time, and of chats alone: batch work
would write a document's every prompt. Packing happens on the engine's thread, files and ciphers on others: a disk that
hangs costs ``PATIENCE``, once. One thread reads, block after block, so that the memory of one is used for the next:
54 MB take 45 ms, and 110 with four threads, which touch fresh memory for every block and stand in line for Python.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import mlx.core as mx

from sidecar.backend import caches, packing
from sidecar.engine.sealed import SealedFolder

log = logging.getLogger("sidecar.engine")

BLOCK = 64
LEAST = 256
"""Tokens below which a sequence is not written: it is computed again before anybody notices."""
LEAST_GAIN = 32
"""Tokens that a prefix on disk must have over one in memory to be read."""
HEAD = 8
"""Tokens that a block must have in common with a prompt to be tried in part; it may have fewer, if they are all."""
TRIED = 3
"""Blocks that are tried in part, the last used first."""
PATIENCE = 10.0
"""Seconds that a request waits for one block."""

Key = tuple[int, ...]
Block = tuple[Key, list[Any]]
"""A block's tokens, and keys and values of each layer, as bytes."""


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the common prefix of two tuples."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class PrefixDisk:
    """The kept prefixes of one model. ``label``: what its files' names begin with. Engine thread.

    ``reader``, ``writer``: a thread each.
    """

    def __init__(
        self, folder: SealedFolder, label: str, *, reader: ThreadPoolExecutor, writer: ThreadPoolExecutor
    ) -> None:
        self._folder = folder
        self._reader, self._writer = reader, writer
        self._writing: Future[Any] | None = None
        self._trusted = True
        self._label = label

    # --- finding -------------------------------------------------------------------------------------
    def longest(self, key: Key) -> tuple[list[str], int]:
        """Return the names of the blocks that hold the longest kept prefix of ``key``, and its length.

        One token at least is left to compute.
        """
        names: list[str] = []
        length, before = 0, ""
        while length + BLOCK < len(key):
            name = self._name(before, key[length : length + BLOCK])
            if name not in self._folder:
                break
            names.append(name)
            length, before = length + BLOCK, name
        known = set(self._alike(before, key[length:]))
        for more in range(min(BLOCK, len(key) - length) - 1 if known else 0, 0, -1):
            name = self._name(before, key[length : length + more])
            if name in known:
                return [*names, name], length + more
        return names, length

    def _name(self, before: str, tokens: Sequence[int]) -> str:
        return self._head(before, tokens[:HEAD]) + self._mac(before, tokens)[:40]

    def _head(self, before: str, tokens: Sequence[int]) -> str:
        return self._label + self._mac(before, tokens)[:12] + "-"

    def _mac(self, before: str, tokens: Sequence[int]) -> str:
        data = before.encode() + b"|" + struct.pack(f"<{len(tokens)}q", *tokens)
        return self._folder.mac(self._label.encode() + data).hex()

    def _alike(self, before: str, tokens: Sequence[int]) -> list[str]:
        """Return the names of the blocks after ``before`` that begin like ``tokens``, the last used first."""
        lengths = range(1, min(HEAD, len(tokens)) + 1)
        return self._folder.beginning([self._head(before, tokens[:n]) for n in lengths])

    def load(self, key: Key, *, at_least: int, beyond: int = 0) -> tuple[list[Any], int] | None:
        """Return the longest kept prefix of ``key`` as a cache, and its length; None below ``at_least`` tokens.

        ``beyond``: tokens that are to be had without reading. A block that can't be read ends the prefix there.
        """
        names, length = self.longest(key)
        if not self._trusted or not names or length < beyond:
            return None
        started = time.monotonic()
        whole = length // BLOCK
        ends = [*names[whole:], *self._alike(names[whole - 1] if whole else "", key[whole * BLOCK : -1])]
        ends = list(dict.fromkeys(ends))[:TRIED]
        most = min(whole * BLOCK + (BLOCK if ends else 0), len(key) - 1)
        if most < at_least:
            return None
        joined = caches.Joined(most)
        fetched = [
            self._reader.submit(self._fetch, name, joined, key, i * BLOCK) for i, name in enumerate(names[:whole])
        ]
        tried = [self._reader.submit(self._read, name) for name in ends]
        used, length, part = 0, 0, list[str]()
        try:
            while used < whole and fetched[used].result(PATIENCE):
                used, length = used + 1, length + BLOCK
            if used == whole:
                blocks = [(name, one.result(PATIENCE)) for name, one in zip(ends, tried, strict=True)]
                part, more = self._add_part(joined, key[length:most], length, blocks)
                length += more
        except TimeoutError:
            self._trusted = False
            log.warning("the disk did not give a kept prefix within %d s: none is read any more", PATIENCE)
        finally:
            left: list[Future[Any]] = [*fetched[used:], *tried]
            for future in left:
                future.cancel()
        if not length or length < at_least:
            return None
        self._writer.submit(self._folder.use, [*names[:used], *part])
        cache = joined.cache(length)
        log.debug("%d tokens from disk in %.0f ms", length, (time.monotonic() - started) * 1000)
        return cache, length

    def _read(self, name: str) -> Block | None:
        """Return a block's tokens, and its keys and values; None where it can't be had. On the reading thread."""
        data = self._folder.read(name)
        if data is None:
            return None
        try:
            (_, tokens), layers = packing.unpack(data, packing.raw_rows)
            return tuple(tokens.view("<i8").tolist()), layers
        except (TypeError, ValueError) as exc:
            self._throw_away(name, exc)
            return None

    def _fetch(self, name: str, joined: caches.Joined, key: Key, start: int) -> bool:
        """Read a whole block into its place; return whether it is there. On the reading thread."""
        block = self._read(name)
        if block is None:
            return False
        try:
            if block[0] != key[start : start + BLOCK]:
                raise ValueError("other tokens than its name says")
            joined.add(block[1], start, BLOCK)
        except ValueError as exc:
            self._throw_away(name, exc)
            return False
        return True

    def _throw_away(self, name: str, exc: Exception) -> None:
        log.warning("a kept prefix on disk is thrown away and computed anew: %s", exc)
        self._folder.remove([name])

    def _add_part(
        self, joined: caches.Joined, tokens: Key, start: int, blocks: Sequence[tuple[str, Block | None]]
    ) -> tuple[list[str], int]:
        """Put what one of some blocks has in common with ``tokens`` in its place, the most that one has.

        Returns its name and how many tokens that is.
        """
        found = [(common(block[0], tokens), name, block[1]) for name, block in blocks if block is not None]
        length, name, layers = max(found, key=lambda one: one[0], default=(0, "", []))
        if not length:
            return [], 0
        try:
            joined.add(layers, start, length)
        except ValueError as exc:
            self._throw_away(name, exc)
            return [], 0
        return [name], length

    # --- writing -------------------------------------------------------------------------------------
    @property
    def writing(self) -> bool:
        """Whether the last block is on its way still."""
        return self._writing is not None and not self._writing.done()

    def save(self, key: Key, cache: list[Any]) -> Iterator[Future[Any]]:
        """Write what is missing of a sequence, a block at a time; ends early where the disk takes no more.

        Gives each block's future, and may be gone on with when that is done.
        """
        before = ""
        names: list[str] = []
        for start in range(0, len(key), BLOCK):
            stop = min(start + BLOCK, len(key))
            name = self._name(before, key[start:stop])
            if name not in self._folder:
                tokens = mx.array(key[start:stop], mx.int64)
                packed = packing.pack([tokens, caches.part(cache, start, stop)])
                if packed is None:
                    return
                ends = [self._name(before, key[start:n]) for n in range(start + 1, stop)]
                self._writing = self._writer.submit(self._written, name, packed, ends)
                del packed
                yield self._writing
                if not self._writing.done() or not self._writing.result():
                    return
            before = name
            names.append(name)
        self._writer.submit(self._folder.use, names)

    def _written(self, name: str, data: bytes, ends: Sequence[str]) -> bool:
        """Write a block and remove the ends of shorter sequences that it contains."""
        done = self._folder.write(name, data)
        if done:
            self._folder.remove([end for end in ends if end in self._folder])
        return done


class FeatureDisk:
    """What the vision towers of one model gave for pictures, beside its kept prefixes. Engine thread."""

    def __init__(
        self, folder: SealedFolder, label: str, *, reader: ThreadPoolExecutor, writer: ThreadPoolExecutor
    ) -> None:
        self._folder = folder
        self._label = label
        self._reader, self._writer = reader, writer

    def _name(self, key: bytes) -> str:
        return self._label + self._folder.mac(self._label.encode() + b"picture" + key).hex()[:40]

    def get(self, key: bytes) -> Any:
        """Return what was kept under a digest of a tower's arguments; None for nothing."""
        name = self._name(key)
        if name not in self._folder:
            return None
        try:
            data = self._reader.submit(self._folder.read, name).result(PATIENCE)
            found = None if data is None else packing.unpack(data)
        except (TimeoutError, ValueError) as exc:
            log.warning("a picture's features on disk are thrown away and computed anew: %s", exc)
            self._folder.remove([name])
            return None
        self._writer.submit(self._folder.use, [name])
        return found

    def save(self, key: bytes, value: Any, done: Callable[[], None]) -> bool:
        """Write features; return whether they are on their way. ``done`` is called, on another thread, at the end."""
        name = self._name(key)
        packed = None if name in self._folder else packing.pack(value)
        if packed is None:
            return False
        self._writer.submit(self._folder.write, name, packed).add_done_callback(lambda _: done())
        return True
