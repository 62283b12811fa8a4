"""Pools whose threads are all there from the beginning.

A thread that is started where memory has ended may never come up, and Python waits for it without end (its start is
told by the thread itself). On the engine's thread that was an engine at rest with requests waiting, until the watchdog;
a pool that starts a thread at its first work does so at just that moment.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor


def started(workers: int, name: str) -> ThreadPoolExecutor:
    """Return a pool of so many threads that run already."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    together = threading.Barrier(workers + 1)
    for _ in range(workers):
        pool.submit(together.wait)
    together.wait()
    return pool
