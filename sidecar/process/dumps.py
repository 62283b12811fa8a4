"""Where everything stands, on a signal: what to ask of a server that answers ``/health`` and yet gets nowhere.

``kill -USR1 PID`` writes every task of the listener and every request in flight to its log; sent to the engine's
process it writes the stack of each of its threads to the listener's output.
"""

from __future__ import annotations

import asyncio
import faulthandler
import io
import logging
import signal
from collections.abc import Callable

log = logging.getLogger("sidecar.server")


def of_tasks(describe: Callable[[], str]) -> None:
    """Log the event loop's tasks and what ``describe`` returns whenever SIGUSR1 comes. On the loop's thread."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: log.warning("%s", _tasks(describe)))


def of_threads() -> None:
    """Write the stacks of all threads to standard error whenever SIGUSR1 comes, also while Python does not run."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _tasks(describe: Callable[[], str]) -> str:
    sink = io.StringIO(f"SIGUSR1: where everything stands\n{describe()}\n")
    sink.seek(0, io.SEEK_END)
    for task in asyncio.all_tasks():
        task.print_stack(file=sink)
    return sink.getvalue()
