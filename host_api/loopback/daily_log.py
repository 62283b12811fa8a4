"""Log files by day, capped in size and number, readable by their user alone; a line is a line."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import threading
import time
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from typing import Any

MAX_BYTES = 10 * 1024 * 1024
BACKUPS = 2
KEEP_DAYS = 14
MOST = 10_000  # lines that wait for the disk
LEAVE = 1.0
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")


class OneLine(logging.Formatter):
    """Formats a record so that nothing in its message can begin a line of its own or move a terminal's cursor.

    Messages hold what clients and servers of other people sent: model names, reasons, file names. A traceback still
    takes as many lines as it needs, each indented.
    """

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line without control characters, which are written as their escapes."""
        return _CONTROLS.sub(lambda m: m[0].encode("unicode_escape").decode(), super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return the traceback, indented."""
        return "  " + super().formatException(ei).replace("\n", "\n  ")


class DailyFile(RotatingFileHandler):
    """A handler that writes to ``<stem>_YYYYMMDD.log``, changes file at midnight and at ``MAX_BYTES``.

    Files older than ``KEEP_DAYS`` days are deleted.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self._folder = folder
        self._stem = stem
        self._day = time.strftime("%Y%m%d")
        super().__init__(self._path(), maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True)
        self.setFormatter(OneLine())
        self._drop_old()

    def _path(self) -> Path:
        return self._folder / f"{self._stem}_{self._day}.log"

    def _open(self) -> Any:
        return open(  # the opener makes the file private from its first byte, and follows no link
            self.baseFilename,
            self.mode,
            encoding=self.encoding,
            errors=self.errors,
            opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600),
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, to the file of the day."""
        day = time.strftime("%Y%m%d")
        if day != self._day:
            self._day = day
            self.close()
            self.baseFilename = str(self._path())
            self._drop_old()
        super().emit(record)

    def _drop_old(self) -> None:
        oldest = time.time() - KEEP_DAYS * 86400
        for path in self._folder.glob(f"{self._stem}_*.log*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


class _Listener(QueueListener):
    def __init__(self, waiting: queue.Queue[logging.LogRecord | None], handler: logging.Handler) -> None:
        super().__init__(waiting, handler)
        self._waiting = waiting

    def enqueue_sentinel(self) -> None:
        """Wait for room: a full queue would refuse the mark of its end."""
        self._waiting.put(None)


class Background(QueueHandler):
    """A handler that hands records to another one in a thread, so that a slow disk keeps no event loop waiting.

    Beyond ``MOST`` waiting lines the newest are dropped: a disk that hangs must not fill the memory instead.
    """

    def __init__(self, handler: logging.Handler) -> None:
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(MOST)
        super().__init__(self._waiting)
        self._listener = _Listener(self._waiting, handler)
        self._handler = handler
        self._listener.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return the record as it is: formatting is the thread's work."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put a record where the thread takes it from."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(record)

    def close(self) -> None:
        """Write what waits and end; what a hanging disk doesn't take within ``LEAVE`` seconds is given up."""
        ending = threading.Thread(target=self._end, name="log-end", daemon=True)
        ending.start()
        ending.join(LEAVE)
        super().close()

    def _end(self) -> None:
        self._listener.stop()
        self._handler.close()


def writable(folder: Path) -> None:
    """Make ``folder`` for log files. Raises OSError when nothing can be written there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    probe = folder / f".writable-{os.getpid()}"
    probe.touch()
    probe.unlink()
