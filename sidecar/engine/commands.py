"""What other threads ask of the engine's thread, and how they are told of the outcome.

A command that raises fails who asked for it, never the thread: ``settle`` gives results and errors to a future, and
drops both where nobody waits any more (asyncio cancels a future the moment its client leaves).
"""

from __future__ import annotations

import contextlib
import logging
import queue
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import TypeVar

from sidecar.errors import check_memory

log = logging.getLogger("sidecar.engine")

T = TypeVar("T")
Command = Callable[[], None]


class Commands:
    """A queue of commands. ``heavy`` ones (loads, what gives memory back) wait until no other work is on the stack.

    A load that began while a picture is encoded would hold up every stream for as long as it takes: the encoder's pause
    polls this queue from deep inside a piece of work.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Command, bool] | None] = queue.SimpleQueue()
        self._heavy: deque[Command] = deque()

    def put(self, command: Command, *, heavy: bool = False) -> None:
        """Add a command. From any thread."""
        self._queue.put((command, heavy))

    def put_stop(self) -> None:
        """Make ``carry_out`` return True. From any thread."""
        self._queue.put(None)

    def carry_out(self, *, block: bool, nested: bool) -> bool:
        """Carry out what came; with ``block`` wait for one command. Returns whether to stop."""
        while True:
            if self._heavy and not nested:
                _run(self._heavy.popleft())
                block = False
                continue
            try:
                item = self._queue.get(block=block)
            except queue.Empty:
                return False
            if item is None:
                return True
            command, heavy = item
            block = False
            if heavy:
                self._heavy.append(command)
            else:
                _run(command)


def _run(command: Command) -> None:
    try:
        command()
    except Exception as exc:
        check_memory(exc)
        log.exception("a command of the engine failed")


def tell(future: Future[T], result: T) -> None:
    """Give a result to who waits, if anybody still does."""
    with contextlib.suppress(InvalidStateError):
        future.set_result(result)


def fail(future: Future[T], exc: BaseException) -> None:
    """Give an error to who waits, if anybody still does."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(exc)


def settle(future: Future[T], work: Callable[[], T]) -> None:
    """Do ``work``, wanted or not by now, and tell who waits of its result or error."""
    try:
        result = work()
    except Exception as exc:
        check_memory(exc)
        log.exception("a command of the engine failed")
        fail(future, exc)
    else:
        tell(future, result)
