"""The server process: bind, publish, serve, drain, exit.

The port is bound and published before the web framework is imported, and MLX only when a model is asked
for, on the engine's own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import logging
import os
import resource
import signal
import socket
import sys
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from host_api.loopback import listen
from host_api.loopback.ticks import until_tick
from host_api.protocol.decision import ExitCode
from host_api.protocol.record import Owner, new_token
from sidecar import __version__
from sidecar.config import ConfigError, Settings
from sidecar.process import logs
from sidecar.process.lifecycle import Lifecycle, LockHeld, StateDirError

if TYPE_CHECKING:
    from uvicorn.config import Config

    from sidecar.api.service import Service

log = logging.getLogger("sidecar.server")

FILES = 8192  # open files the process may have, where the system lets it


def run(settings: Settings) -> int:
    """Serve until told to stop; returns the process's exit status (see the ownership protocol)."""
    try:
        owner = Owner.from_env(os.environ)
        token = settings.token() or (new_token() if settings.managed and not settings.open else None)
        _raise_limit()
        life = Lifecycle.acquire(
            settings.state_dir, managed=settings.managed, grace_time=settings.grace_time, owner=owner
        )
    except LockHeld as exc:
        return _fail(ExitCode.LOCK_HELD, str(exc))
    except (ConfigError, StateDirError) as exc:
        return _fail(ExitCode.CONFIG, str(exc))
    try:
        try:
            logs.setup(settings)
        except OSError as exc:
            return _fail(ExitCode.CONFIG, f"--log-dir {settings.logs}: can't be written ({exc.strerror})")
        try:
            sock = listen.bind(settings.host, settings.port, strict=settings.strict_port)
        except OSError as exc:
            return _fail(ExitCode.STARTUP_FAILURE, f"can't listen on {settings.host}: {exc}")
        with sock:
            host, port = sock.getsockname()[:2]
            try:
                life.publish(host=host, port=port, version=__version__, token=token)
            except StateDirError as exc:
                return _fail(ExitCode.CONFIG, str(exc))
            log.info("listening on %s pid %d instance %s", listen.url_of(sock), os.getpid(), life.instance_id)
            return asyncio.run(_serve(settings, sock, life, token))
    finally:
        life.release()


def _raise_limit() -> None:
    """Allow more open files than the 256 that a Mac gives a program: each stream takes one."""
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _prepare_uvicorn() -> None:
    """Let uvicorn's modules be imported without what its package imports.

    That is its command line, a file watcher and reloaders: 2 MB that a server never uses.
    """
    spec = importlib.util.find_spec("uvicorn")
    if "uvicorn" not in sys.modules and spec is not None and spec.submodule_search_locations:
        package = types.ModuleType("uvicorn")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["uvicorn"] = package
        from uvicorn.config import Config

        package.Config = Config  # type: ignore[attr-defined]  # its own modules take it from there


@contextlib.contextmanager
def _absent(*names: str) -> Iterator[None]:
    """Let packages that the framework imports where they are installed look as if they weren't.

    Forms are of another program in the same environment; their parser took 1 MB of a server that reads none.
    """
    names = tuple(name for name in names if name not in sys.modules)
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None: not to be imported
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def _fail(code: ExitCode, message: str) -> int:
    sys.stderr.write(f"mlx-sidecar: {message}\n")
    sys.stderr.flush()
    return int(code)


async def _serve(settings: Settings, sock: socket.socket, life: Lifecycle, token: str | None) -> int:
    gc.disable()  # while modules are imported there is nothing to collect
    _prepare_uvicorn()
    sys.modules["pydantic.v1"] = None  # type: ignore[assignment]  # looked for with every answer, where it's used or not
    with _absent("python_multipart", "multipart"):
        from uvicorn.server import Server as UvicornServer

        from sidecar.api.app import create_app
    from sidecar.api.service import Service
    from sidecar.engine.client import EngineClient
    from sidecar.engine.metrics import Meter
    from sidecar.process import dumps
    from sidecar.process.engine_start import Launcher

    class Server(UvicornServer):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def main_loop(self) -> None:
            """Tick with the other loops, once a second, not ten times: an idle sidecar sleeps. ``end`` ends it."""
            while not self.should_exit:
                await self.on_tick(0)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(until_tick(1.0)):
                        await stopper.ended.wait()

    meter = Meter()
    launcher = Launcher(settings)
    service = Service(settings, EngineClient(launcher, metered=meter.replay), meter, instance_id=life.instance_id)
    app = create_app(service, token=token)
    server = Server(_config(app))
    loop = asyncio.get_running_loop()
    stopper = _Stopper(service, server, settings.drain_timeout)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopper.on_signal, number)
    dumps.of_tasks(service.engine.describe)
    watch = asyncio.create_task(_leave_when_alone(life, stopper))
    service.start()
    launcher.prepare()
    _spare_the_collector()
    try:
        await server.serve(sockets=listen.beside(sock))
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        await service.close()
        await launcher.close()
    return stopper.status


def _config(app: Any) -> Config:
    from uvicorn.config import Config

    return Config(
        app,
        http="h11",
        loop="asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        h11_max_incomplete_event_size=64 * 1024,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
    )


def _spare_the_collector() -> None:
    """Let the garbage collector never look again at what was imported: each look took 40 ms, and ``/health`` waited."""
    gc.freeze()
    gc.enable()


async def _leave_when_alone(life: Lifecycle, stopper: _Stopper) -> None:
    reason = await life.watch()
    stopper.stop(reason)


class _Stopper:
    """Turns the first signal into a drain and the second into an exit."""

    def __init__(self, service: Service, server: Any, drain_timeout: float) -> None:
        self._service = service
        self._server = server
        self._timeout = drain_timeout
        self._task: asyncio.Task[None] | None = None
        self.status = int(ExitCode.CLEAN)
        self.ended = asyncio.Event()

    def on_signal(self, number: int) -> None:
        if self._task is not None:
            log.warning("second signal: leaving at once")
            logging.shutdown()
            os._exit(128 + number)
        self.stop(signal.Signals(number).name)

    def stop(self, reason: str) -> None:
        """Refuse new work, let what runs finish, then end the server."""
        if self._task is None:
            log.info("stopping: %s", reason)
            self._task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        await self._service.drain(self._timeout)
        self._server.should_exit = True
        self.ended.set()
