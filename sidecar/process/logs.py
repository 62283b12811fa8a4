"""Log files by day, capped in size and number, with native output captured too.

``mlx_service_YYYYMMDD.log`` has the engine's and the process's own words, standard error included (a native
library's last message before it aborts); ``api_YYYYMMDD.log`` one line a request. Neither holds prompts or
keys unless ``--log-prompts``.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

from sidecar.config import Settings

MAX_BYTES = 10 * 1024 * 1024
BACKUPS = 2
KEEP_DAYS = 14
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class DailyFile(RotatingFileHandler):
    """A handler that writes to ``<stem>_YYYYMMDD.log``, changes file at midnight and at ``MAX_BYTES``."""

    def __init__(self, folder: Path, stem: str) -> None:
        self._folder = folder
        self._stem = stem
        self._day = time.strftime("%Y%m%d")
        super().__init__(self._path(), maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True)
        self._drop_old()

    def _path(self) -> Path:
        return self._folder / f"{self._stem}_{self._day}.log"

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


def setup(settings: Settings) -> None:
    """Send logs to files and standard error to the service log. Raises OSError."""
    folder = settings.logs
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()
    level = settings.log_level.upper()
    root = logging.getLogger()
    root.setLevel(level)
    service = DailyFile(folder, "mlx_service")
    service.setFormatter(logging.Formatter(_FORMAT))
    root.handlers[:] = [service]
    api = logging.getLogger("sidecar.api")
    access = DailyFile(folder, "api")
    access.setFormatter(logging.Formatter(_FORMAT))
    api.handlers[:] = [access]
    api.propagate = False
    for noisy in ("httpx", "httpcore", "asyncio", "transformers"):
        logging.getLogger(noisy).setLevel("WARNING")
    logging.captureWarnings(True)
    _capture_stderr()


def _capture_stderr() -> None:
    """Copy what native code writes to file descriptor 2 into the log as well as to where it went."""
    try:
        original = os.dup(2)
        read, write = os.pipe()
        os.dup2(write, 2)
        os.close(write)
    except OSError:
        return
    native = logging.getLogger("sidecar.native")

    def pump() -> None:
        with os.fdopen(read, "rb", buffering=0) as source:
            rest = b""
            while chunk := source.read(8192):
                with contextlib.suppress(OSError):
                    os.write(original, chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        native.warning("%s", line.decode("utf-8", "replace").rstrip())

    thread = threading.Thread(target=pump, name="stderr", daemon=True)
    thread.start()

    def restore() -> None:
        """The last words must get out before the process ends."""
        sys.stderr.flush()
        os.dup2(original, 2)
        thread.join(2)

    atexit.register(restore)
