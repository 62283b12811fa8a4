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

from host_api.loopback.daily_log import DailyFile, writable
from sidecar.config import Settings


def setup(settings: Settings) -> None:
    """Send logs to files and standard error to the service log. Raises OSError."""
    folder = settings.logs
    writable(folder)
    level = settings.log_level.upper()
    root = logging.getLogger()
    root.setLevel(level)
    service = DailyFile(folder, "mlx_service")
    root.handlers[:] = [service]
    api = logging.getLogger("sidecar.api")
    access = DailyFile(folder, "api")
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
