"""``mlx-host serve``: bind, log, run until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from host_api.app import access, config
from host_api.loopback import listen
from host_api.loopback.daily_log import Background, DailyFile, writable

if TYPE_CHECKING:
    import uvicorn

EXIT_STARTUP = 3
EXIT_CONFIG = 78
LEAVE_WITHIN = 4.5  # seconds from the first signal

log = logging.getLogger("host.server")


def serve(argv: Sequence[str]) -> int:
    """Run the host service; returns the process's exit status (0, 3 start-up failure, 78 configuration)."""
    try:
        settings = config.load(argv)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable(settings.logs)
        key = access.key_of(settings)
    except config.ConfigError as exc:
        return _fail(EXIT_CONFIG, str(exc))
    except OSError as exc:
        return _fail(EXIT_CONFIG, f"{exc.filename}: can't be written ({exc.strerror}); choose another --data-dir")
    handler = Background(DailyFile(settings.logs, "api"))
    loggers = [logging.getLogger(name) for name in ("host", "host_api", "uvicorn.error")]
    for logger in loggers:
        logger.setLevel(settings.log_level.upper())
        logger.addHandler(handler)
    try:
        return _run(settings, key)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _run(settings: config.HostSettings, key: str | None) -> int:
    try:
        import uvicorn

        from host_api.app.application import create_app
        from host_api.app.data.database import DataError, Directory
    except ImportError as exc:
        return _fail(
            EXIT_STARTUP, f"{exc.name} is missing; install the host service with: pip install 'mlx-sidecar[host]'"
        )
    try:
        sock = listen.bind(settings.host, settings.port, strict=True)
    except listen.PortTaken as exc:
        return _fail(EXIT_STARTUP, f"{exc}; is the service running already? Choose another --port")
    except OSError as exc:
        return _fail(EXIT_STARTUP, f"port {settings.port} on {settings.host} can't be used ({exc})")
    with sock:
        try:
            directory = Directory(settings.data_dir).open()
        except DataError as exc:
            return _fail(EXIT_CONFIG, str(exc))
        for note in directory.notes:
            log.warning("%s", note)
            sys.stderr.write(f"mlx-host: {note}\n")
        try:
            url = listen.url_of(sock)
            access.announce(settings.data_dir, url, key)
            log.info("listening on %s pid %d", url, os.getpid())
            _say(f"mlx-host: {url}  (data in {settings.data_dir}, logs in {settings.logs})")
            # The link has the key: it goes to a person's terminal, not to a file that others may read.
            shown = f"the page: {access.link(url, key)}" if sys.stdout.isatty() else "the page: run mlx-host open"
            _say(f"mlx-host: {shown}")

            class Server(uvicorn.Server):
                # uvicorn's own handlers would end the process by the signal again; a clean stop is status 0.
                @contextlib.contextmanager
                def capture_signals(self) -> Iterator[None]:
                    yield

            server_config = uvicorn.Config(
                create_app(settings, key, directory),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=30,
            )
            return asyncio.run(_serve(Server(server_config), sock))
        finally:
            directory.close()


async def _serve(server: uvicorn.Server, sock: socket.socket) -> int:
    """Serve until SIGINT or SIGTERM; a second signal does not wait for running requests."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not server.should_exit:
            threading.Thread(target=_surely_leave, name="leave", daemon=True).start()
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop)
    await server.serve(sockets=listen.beside(sock))
    return 0 if server.started else EXIT_STARTUP


def _surely_leave() -> None:
    """End the process although a thread of it works on: in Excel, in a keyring, in a start of the sidecar.

    What is acknowledged is in the database by then, locks and leases go with the process, and a launchd or Docker that
    waits longer would only kill it.
    """
    time.sleep(LEAVE_WITHIN)
    log.warning("something still runs after %g s: leaving without it", LEAVE_WITHIN)
    time.sleep(0.1)  # for the log's thread; a disk that hangs is not waited for
    os._exit(0)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _fail(code: int, message: str) -> int:
    sys.stderr.write(f"mlx-host: {message}\n")
    sys.stderr.flush()
    return code
