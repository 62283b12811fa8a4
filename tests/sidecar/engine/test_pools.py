"""Pools that start no thread later."""

from __future__ import annotations

import threading

from sidecar.engine.pools import started


def test_all_threads_are_there_before_the_first_work() -> None:
    """One that is started where memory has ended never comes up, and who started it waits for good."""
    pool = started(3, "early")
    try:
        before = {t.ident for t in threading.enumerate()}
        assert len([t for t in threading.enumerate() if t.name.startswith("early")]) == 3
        together = threading.Barrier(3)
        assert len({f.result(30) for f in [pool.submit(together.wait) for _ in range(3)]}) == 3
        assert {t.ident for t in threading.enumerate()} <= before
    finally:
        pool.shutdown()
