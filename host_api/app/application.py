"""The application: endpoints behind the guard, services in the lifespan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from host_api.app import errors
from host_api.app.chat import tools
from host_api.app.chat.tools import Tool
from host_api.app.config import HostSettings
from host_api.app.data.chats import Sessions
from host_api.app.data.engine import Job, open_engine
from host_api.app.data.jobs import Jobs
from host_api.app.data.keys import KeyStore
from host_api.app.data.providers import Store
from host_api.app.documents import readers, tagging
from host_api.app.documents.index import Indexer
from host_api.app.documents.vectors import Vectors
from host_api.app.documents.worker import Progress, Worker
from host_api.app.models.gateway import Gateway
from host_api.app.models.pulls import Pulls
from host_api.app.routes import chat, models, page, pulls, status, tasks
from host_api.app.services import Services
from host_api.app.sidecar.control import SidecarControl
from host_api.app.sidecar.reconciler import Control, Reconciler
from host_api.loopback.access_log import AccessLog
from host_api.loopback.guard import Guard

log = logging.getLogger("host.api")


def build(
    settings: HostSettings,
    *,
    control: Callable[[HostSettings], Control] = SidecarControl,
    extra_tools: Sequence[Tool] = (),
) -> FastAPI:
    """The bare application, for a product that mounts it behind a guard of its own and adds tools for chats."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = open_engine(settings.data_dir / "host.sqlite3")
        store = Store(engine, KeyStore(settings.data_dir / "keys.json"))
        store.first_start()
        reconciler = Reconciler(store, control(settings), stop_delay=settings.stop_delay)
        gateway = Gateway(store, reconciler, timeout=settings.request_timeout)
        jobs = Jobs(engine, settings.data_dir / "files")
        vectors = Vectors(settings.data_dir / "vectors")
        indexer = Indexer(jobs, vectors, gateway)

        async def tag(job: Job, _: Progress) -> dict[str, Any]:
            text = readers.text_of(job.name, await asyncio.to_thread(jobs.content, job))
            return {"tags": await tagging.tags_of(gateway, text, attempt=job.attempts + 1)}

        worker = Worker(jobs, {"tag": tag, "index": indexer.index}, attempts=settings.job_attempts)
        app.state.services = Services(
            settings=settings,
            engine=engine,
            store=store,
            reconciler=reconciler,
            gateway=gateway,
            sessions=Sessions(engine),
            tools=tuple(tools.available(extra_tools)),
            jobs=jobs,
            vectors=vectors,
            indexer=indexer,
            worker=worker,
            pulls=Pulls(gateway, store),
        )
        reconciler.start()
        worker.start()
        try:
            yield
        finally:
            await app.state.services.pulls.close()
            await worker.close()
            await reconciler.close()
            engine.dispose()

    app = FastAPI(title="mlx-host", lifespan=lifespan, redoc_url=None)
    errors.install(app)
    for module in (page, status, models, pulls, chat, tasks):
        app.include_router(module.router)
    return app


def create_app(settings: HostSettings) -> ASGIApp:
    """The application as ``mlx-host serve`` runs it. Raises ConfigError."""
    guard = Guard(
        build(settings),
        refuse=_refuse,
        key=settings.token(),
        max_body=settings.max_body_mb * 1024 * 1024,
        client_timeout=settings.client_timeout,
        origins=settings.allow_origin,
        hosts=settings.allow_host,
        open_paths=_open,
        expose="X-Vercel-AI-UI-Message-Stream, X-Session-Id, X-Request-Id, Retry-After",
    )
    return AccessLog(guard, log)


def _open(method: str, path: str) -> bool:
    """Whether a path needs no key: the page has none before its user gives it one."""
    return path == "/health" or (method in ("GET", "HEAD") and (path == "/" or path.startswith("/assets/")))


def _refuse(status: int, message: str, code: str, wait: int | None = None) -> errors.ApiError:
    return errors.ApiError(status, message, code=code, retry_after=wait)
