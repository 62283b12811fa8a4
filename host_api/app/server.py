"""``mlx-host serve``: bind, log, run until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from host_api.app import config
from host_api.loopback import listen
from host_api.loopback.daily_log import DailyFile, writable

if TYPE_CHECKING:
    import uvicorn

EXIT_STARTUP = 3
EXIT_CONFIG = 78

log = logging.getLogger("host.server")


def serve(argv: Sequence[str]) -> int:
    """Run the host service; returns the process's exit status (0, 3 start-up failure, 78 configuration)."""
    try:
        settings = config.load(argv)
        settings.token()
    except config.ConfigError as exc:
        return _fail(EXIT_CONFIG, str(exc))
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable(settings.logs)
    except OSError as exc:
        return _fail(EXIT_CONFIG, f"{exc.filename}: can't be written ({exc.strerror}); choose another --data-dir")
    handler = DailyFile(settings.logs, "api")
    loggers = [logging.getLogger(name) for name in ("host", "host_api", "uvicorn.error")]
    for logger in loggers:
        logger.setLevel(settings.log_level.upper())
        logger.addHandler(handler)
    try:
        return _run(settings)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _run(settings: config.HostSettings) -> int:
    try:
        import uvicorn

        from host_api.app.application import create_app
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
        url = listen.url_of(sock)
        log.info("listening on %s pid %d", url, os.getpid())
        _say(f"mlx-host: {url}  (data in {settings.data_dir}, logs in {settings.logs})")

        class Server(uvicorn.Server):
            # uvicorn's own handlers would end the process by the signal again; a clean stop is status 0.
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        server_config = uvicorn.Config(
            create_app(settings),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            timeout_keep_alive=30,
        )
        return asyncio.run(_serve(Server(server_config), sock))


async def _serve(server: uvicorn.Server, sock: socket.socket) -> int:
    """Serve until SIGINT or SIGTERM; a second signal does not wait for running requests."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop)
    await server.serve(sockets=[sock])
    return 0 if server.started else EXIT_STARTUP


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _fail(code: int, message: str) -> int:
    sys.stderr.write(f"mlx-host: {message}\n")
    sys.stderr.flush()
    return code
