"""Kept prefixes on disk: a conversation goes on after everything was quit as if it hadn't been.

A sequence is kept in blocks of ``BLOCK`` tokens, each a file with the keys and values of all layers. A block's name is
a keyed digest of its tokens and of the name of the block before it, so that what two conversations share at the
beginning is kept once, a turn writes what is new alone, and a prefix is found by computing names, with nothing read.
What is left after the last whole block is a block of its own, found by trying the lengths it may have; it goes when
the conversation has grown past it.

    a chat of 150 tokens:        [0…63] [64…127] [128…149]
    its next turn, 230 tokens:   [0…63] [64…127] [128…191] [192…229]      two are written, the old end is removed

Only caches that hold every token's keys and values can be cut into blocks: what has a window or a state is kept in
memory alone. Blocks are written while the engine has nothing else to do, one at a time, and of chats alone: batch work
would write a document's every prompt. Packing and unpacking happens on the engine's thread, files and ciphers on
others: a disk that hangs costs ``PATIENCE``, once.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sidecar.backend import caches, packing
from sidecar.engine.sealed import SealedFolder

log = logging.getLogger("sidecar.engine")

BLOCK = 64
LEAST = 256
"""Tokens below which a sequence is not written: it is computed again before anybody notices."""
LEAST_GAIN = 32
"""Tokens that a prefix on disk must have over one in memory to be read."""
AHEAD = 4
"""Blocks read and opened at once, each on a thread of its own."""
PATIENCE = 10.0
"""Seconds that a request waits for one block."""

Key = tuple[int, ...]


class PrefixDisk:
    """The kept prefixes of one model. ``label``: what its files' names begin with. Engine thread."""

    def __init__(self, folder: SealedFolder, label: str, threads: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._threads = threads
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
        for more in range(min(BLOCK, len(key) - length) - 1, 0, -1):
            name = self._name(before, key[length : length + more])
            if name in self._folder:
                return [*names, name], length + more
        return names, length

    def _name(self, before: str, tokens: Sequence[int]) -> str:
        data = before.encode() + b"|" + struct.pack(f"<{len(tokens)}q", *tokens)
        return self._label + self._folder.mac(self._label.encode() + data).hex()[:40]

    def load(self, key: Key, *, at_least: int) -> tuple[list[Any], int] | None:
        """Return the longest kept prefix of ``key`` as a cache, and its length; None below ``at_least`` tokens.

        A block that can't be read ends the prefix there.
        """
        names, length = self.longest(key)
        if not self._trusted or not names or length < at_least:
            return None
        started = time.monotonic()
        joined = caches.Joined(length)
        ends = [min(length, (i + 1) * BLOCK) for i in range(len(names))]
        starts = [0, *ends]
        fetched = [
            self._threads.submit(self._fetch, name, joined, start, end - start)
            for name, start, end in zip(names, starts, ends, strict=False)
        ]
        used = 0
        try:
            while used < len(names) and fetched[used].result(PATIENCE):
                used += 1
        except TimeoutError:
            self._trusted = False
            log.warning("the disk did not give a kept prefix within %d s: none is read any more", PATIENCE)
        finally:
            for one in fetched[used:]:
                one.cancel()
        if not used or ends[used - 1] < at_least:
            return None
        self._threads.submit(self._folder.use, names[:used])
        cache = joined.cache(ends[used - 1])
        log.debug("%d tokens from disk in %.0f ms", ends[used - 1], (time.monotonic() - started) * 1000)
        return cache, ends[used - 1]

    def _fetch(self, name: str, joined: caches.Joined, start: int, tokens: int) -> bool:
        """Read a block into its place; return whether it is there. On one of the threads."""
        data = self._folder.read(name)
        if data is None:
            return False
        try:
            joined.add(data, start, tokens)
        except ValueError as exc:
            log.warning("a kept prefix on disk is thrown away and computed anew: %s", exc)
            self._folder.remove([name])
            return False
        return True

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
                packed = packing.pack(caches.part(cache, start, stop))
                if packed is None:
                    return
                ends = [self._name(before, key[start:n]) for n in range(start + 1, stop)]
                self._writing = self._threads.submit(self._written, name, packed, ends)
                del packed
                yield self._writing
                if not self._writing.done() or not self._writing.result():
                    return
            before = name
            names.append(name)
        self._threads.submit(self._folder.use, names)

    def _written(self, name: str, data: bytes, ends: Sequence[str]) -> bool:
        """Write a block and remove the ends of shorter sequences that it contains."""
        done = self._folder.write(name, data)
        if done:
            self._folder.remove([end for end in ends if end in self._folder])
        return done


class FeatureDisk:
    """What the vision towers of one model gave for pictures, beside its kept prefixes. Engine thread."""

    def __init__(self, folder: SealedFolder, label: str, threads: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._label = label
        self._threads = threads

    def _name(self, key: bytes) -> str:
        return self._label + self._folder.mac(self._label.encode() + b"picture" + key).hex()[:40]

    def get(self, key: bytes) -> Any:
        """Return what was kept under a digest of a tower's arguments; None for nothing."""
        name = self._name(key)
        if name not in self._folder:
            return None
        try:
            data = self._threads.submit(self._folder.read, name).result(PATIENCE)
            found = None if data is None else packing.unpack(data)
        except (TimeoutError, ValueError) as exc:
            log.warning("a picture's features on disk are thrown away and computed anew: %s", exc)
            self._folder.remove([name])
            return None
        self._threads.submit(self._folder.use, [name])
        return found

    def save(self, key: bytes, value: Any, done: Callable[[], None]) -> bool:
        """Write features; return whether they are on their way. ``done`` is called, on another thread, at the end."""
        name = self._name(key)
        packed = None if name in self._folder else packing.pack(value)
        if packed is None:
            return False
        self._threads.submit(self._folder.write, name, packed).add_done_callback(lambda _: done())
        return True
