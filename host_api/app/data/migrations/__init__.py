"""The schema, one numbered step after the other; ``PRAGMA user_version`` says how many were taken.

A released step is never changed. A step runs in the transaction of all that are missing, so that a crash amid an
upgrade leaves the database as it was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from host_api.app.data.migrations import m0001_first, m0002_journal

Step = Callable[[sqlite3.Connection], None]
STEPS: tuple[Step, ...] = (m0001_first.up, m0002_journal.up)
NEWEST = len(STEPS)
