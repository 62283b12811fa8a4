"""``logs/api_YYYYMMDD.log``: one file a day, the last two weeks kept."""

from __future__ import annotations

import logging
import time
from pathlib import Path

KEEP = 14


class DailyFile(logging.Handler):
    """Writes records to ``<folder>/api_<day>.log``."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._day = ""
        self._stream: logging.FileHandler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, to a new file when the day changed."""
        day = time.strftime("%Y%m%d", time.localtime(record.created))
        if day != self._day or self._stream is None:
            self._close_stream()
            self._stream = logging.FileHandler(self._folder / f"api_{day}.log", encoding="utf-8")
            self._stream.setFormatter(self.formatter)
            self._day = day
            for old in sorted(self._folder.glob("api_*.log"))[:-KEEP]:
                old.unlink(missing_ok=True)
        self._stream.emit(record)

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """Close the file."""
        self._close_stream()
        super().close()


def setup(folder: Path, level: str) -> DailyFile:
    """Send the service's logs to ``folder``; the handler is to be given to ``teardown``. Raises OSError."""
    handler = DailyFile(folder)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("host", "host_api", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.setLevel(level.upper())
        logger.addHandler(handler)
    return handler


def teardown(handler: DailyFile) -> None:
    """Undo ``setup``."""
    for name in ("host", "host_api", "uvicorn.error"):
        logging.getLogger(name).removeHandler(handler)
    handler.close()
