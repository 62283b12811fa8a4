"""The engine process: owns MLX, models, tokenizers, pictures and grammars; knows no HTTP.

Started by the listener with one end of a socket pair, it imports what every model needs and waits. Its first request
makes it the engine: it takes ``engine.lock`` in the state directory, which it holds for life, and waits for the one
before it to end. When the socket ends, the listener is gone, and so is this process, at once: a thread that only reads
notices it, whatever MLX does meanwhile. Signals that end the listener (a terminal's interrupt reaches both) are left to
the listener, which lets answers finish first.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import select
import signal
import socket
import sys
import threading
import time

from host_api.protocol.lock import FileLock
from sidecar.engine import memory
from sidecar.engine.control import Hold, LogLine, Message, Pulse, Ready, Start
from sidecar.engine.messages import VERSION, Refused
from sidecar.engine.metrics import Recorder
from sidecar.engine.thread import EngineThread
from sidecar.engine.wire import Reader, WireError, encode
from sidecar.errors import OutOfMemory, ran_out_of_memory
from sidecar.process import dumps
from sidecar.process.engine_settings import settings_of
from sidecar.text.jobs import Jobs

log = logging.getLogger("sidecar.engine")

ENGINE_LOCK = "engine.lock"
PULSE = 0.2  # seconds
DIED, NO_MEMORY = 70, 71  # exit status after an error on the engine's thread, and after an allocation that failed


def run(fd: int) -> int:
    """Serve the listener at the other end of socket ``fd`` until it goes; return only when there is none."""
    try:
        sock = socket.socket(fileno=fd)
        if sock.family != socket.AF_UNIX:
            raise OSError("not a socket pair")
        sock.setblocking(True)
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"mlx-sidecar: engine: the server starts this by itself ({exc}); use: mlx-sidecar serve\n")
        return 78
    os.set_inheritable(fd, False)
    faulthandler.enable()
    dumps.of_threads()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Engine(sock).serve()
    return 0


class Engine:
    """The process's parts: what reads, the jobs, the engine's thread, the pulse."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._reader = Reader()
        self._work = threading.Event()
        self._lock: FileLock | None = None
        self._jobs: Jobs | None = None

    def serve(self) -> None:
        """Read until the end of the socket, then end the process. So does whatever ends a thread of it."""
        threading.excepthook = lambda args: self._died(args.exc_value or SystemError("a thread ended"))
        try:
            self._serve()
        except BaseException as exc:
            log.critical("the engine can't go on", exc_info=exc)
            self._died(exc)

    def _serve(self) -> None:
        while data := self._receive():
            try:
                for message in self._reader.feed(data):
                    self._take(message)
            except WireError as exc:
                log.critical("the listener sent what is no message: %s", exc)
                os._exit(DIED)
        os._exit(0)

    def emit(self, message: Message) -> None:
        """Send a message. From any thread; blocks while the listener is behind."""
        try:
            data = encode(message)
        except WireError as exc:
            if not isinstance(message, LogLine | Pulse | Start | Hold | Ready):
                data = encode(Refused(id=message.id, status=500, message=f"This answer can't be sent ({exc})."))
            else:
                return
        try:
            with self._sending:
                self._sock.sendall(data)
        except OSError:
            os._exit(0)

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(1 << 20)
        except OSError:
            return b""

    def _take(self, message: Message) -> None:
        if isinstance(message, Start):
            self._start(message)
            return
        assert self._jobs is not None
        if isinstance(message, Hold):
            self._thread.hold(message.batch)
            return
        if self._lock is None:
            self._own()
        self._work.set()
        self._jobs.take(message)  # type: ignore[arg-type]

    def _start(self, message: Start) -> None:
        if message.version != VERSION:
            log.critical("the listener speaks version %s, this engine %s", message.version, VERSION)
            os._exit(DIED)
        self._settings = settings_of(message.settings)
        _log_through(self, self._settings.log_level)
        self._meter = Recorder()
        self._thread = EngineThread(self._settings, self._meter, on_death=self._died)
        self._jobs = Jobs(self._thread, self._settings, self.emit, ending=self._pulse)
        self._thread.warm()
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def _own(self) -> None:
        """Become the engine: one process at a time is."""
        lock = FileLock(self._settings.state_dir / ENGINE_LOCK)
        while not lock.try_exclusive():
            if select.select([self._sock], [], [], 0)[0] and not self._sock.recv(1, socket.MSG_PEEK):
                os._exit(0)
            time.sleep(0.01)
        self._lock = lock
        self.emit(Ready(version=VERSION))

    def _died(self, exc: BaseException) -> None:
        logging.shutdown()
        os._exit(NO_MEMORY if isinstance(exc, OutOfMemory) or ran_out_of_memory(exc) else DIED)

    def _beat(self) -> None:
        """Tell how the engine does while there is work; sleep for good while there is none."""
        while True:
            self._work.wait()
            time.sleep(PULSE)
            assert self._jobs is not None
            self._work.clear()
            if self._jobs.busy or self._thread.load_progress is not None:
                self._work.set()
            self._pulse()

    def _pulse(self) -> None:
        thread = self._thread
        self.emit(
            Pulse(
                load_progress=thread.load_progress,
                stalled=thread.stalled_for(),
                memory=_memory(),
                progress=thread.progress,
                metered=self._meter.take(),
            )
        )


class _Sent(logging.Handler):
    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            self._engine.emit(LogLine(level=record.levelno, name=record.name, text=self.format(record)))


def _log_through(engine: Engine, level: str) -> None:
    """Send this process's log to the listener: two processes must not rotate the same files."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [_Sent(engine)]
    for noisy in ("httpx", "httpcore", "transformers"):
        logging.getLogger(noisy).setLevel("WARNING")
    logging.captureWarnings(True)


def _memory() -> dict[str, int]:
    core = sys.modules.get("mlx.core")
    if core is None or not hasattr(core, "get_peak_memory"):
        return {}
    return {"active": core.get_active_memory(), "cache": core.get_cache_memory(), "peak": memory.peak()}
