"""The application: endpoints behind the guard, services in the lifespan."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from host_api.app import errors
from host_api.app.chat import tools
from host_api.app.chat.attached import Attachments
from host_api.app.chat.consent import Consents
from host_api.app.chat.mcp import Servers
from host_api.app.chat.runs import Runs
from host_api.app.chat.tools import Tool
from host_api.app.config import HostSettings
from host_api.app.data.chats import Sessions
from host_api.app.data.database import Database, Directory
from host_api.app.data.files import Files
from host_api.app.data.jobs import Jobs
from host_api.app.data.keys import KeyStore
from host_api.app.data.providers import Store
from host_api.app.documents.folder_notes import FolderNotes
from host_api.app.documents.folders import Folders
from host_api.app.documents.index import Indexer
from host_api.app.documents.intake import Intake
from host_api.app.documents.tagger import Tagger
from host_api.app.documents.vectors import Vectors
from host_api.app.documents.worker import Worker
from host_api.app.feed import Feed
from host_api.app.models.gateway import Gateway
from host_api.app.models.pulls import Pulls
from host_api.app.routes import chat, folders, mcp, models, page, pulls, status, tasks
from host_api.app.services import Services
from host_api.app.sidecar.control import SidecarControl
from host_api.app.sidecar.reconciler import Control, Reconciler
from host_api.loopback.access_log import AccessLog
from host_api.loopback.guard import Guard

log = logging.getLogger("host.api")
THREADS = 32


def build(
    settings: HostSettings,
    *,
    control: Callable[[HostSettings], Control] = SidecarControl,
    extra_tools: Sequence[Tool] = (),
    directory: Directory | None = None,
) -> FastAPI:
    """Return the bare application, for a product that mounts it behind a guard of its own and adds tools for chats.

    ``directory`` is the open data directory; without it the application opens and closes it itself.
    """

    given = directory

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The loop's own pool has six threads on two cores: a locked database would keep everything else waiting.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "host"))
        mine = given if given is not None else Directory(settings.data_dir)
        if given is None:
            await asyncio.to_thread(mine.open)
        database = mine.database()
        found = await asyncio.to_thread(_services, settings, database, control(settings), extra_tools)
        found.feed = _feed(found)
        found.runs.changed = found.worker.changed = found.feed.hint
        app.state.services = found
        left = await found.runs.recover()
        if left:
            log.info("%d answers were interrupted; what came of them is kept", left)
        # The chat's libraries take seconds to import: in a thread and now, not on the loop at the first question.
        warm = asyncio.create_task(asyncio.to_thread(importlib.import_module, "host_api.app.chat.agent"))
        found.reconciler.start()
        found.worker.start()
        await found.folders.start()
        try:
            yield
        finally:
            warm.cancel()
            await found.feed.close()
            await found.runs.close()
            await found.pulls.close()
            await found.folders.close()
            await found.mcp.close()
            await found.worker.close()
            await found.reconciler.close()
            database.close()
            if given is None:
                mine.close()

    app = FastAPI(title="mlx-host", lifespan=lifespan, docs_url=None, redoc_url=None)
    errors.install(app)
    for module in (page, status, models, pulls, chat, mcp, tasks, folders):
        app.include_router(module.router)
    return app


def _services(settings: HostSettings, database: Database, control: Control, extra_tools: Sequence[Tool]) -> Services:
    files = Files(settings.data_dir / "files")
    store = Store(database, KeyStore(settings.data_dir / "keys.json"))
    store.first_start()
    reconciler = Reconciler(store, control, stop_delay=settings.stop_delay)
    gateway = Gateway(store, reconciler, timeout=settings.request_timeout)
    jobs = Jobs(database, files)
    vectors = Vectors(settings.data_dir / "vectors")
    indexer = Indexer(jobs, vectors, gateway)
    sessions = Sessions(database, Files(settings.data_dir / "pictures"))
    jobs.sweep()
    sessions.sweep()

    tagger = Tagger(jobs, gateway)
    worker = Worker(jobs, {"tag": tagger.tag, "index": indexer.index}, attempts=settings.job_attempts)
    intake = Intake(jobs, worker, gateway, store, indexer)
    notes = FolderNotes(settings.data_dir / "folders.sqlite3")

    return Services(
        settings=settings,
        files=sessions.files,
        attachments=Attachments(sessions.files),
        store=store,
        reconciler=reconciler,
        gateway=gateway,
        sessions=sessions,
        runs=Runs(sessions),
        tools=tuple(tools.available(extra_tools)),
        jobs=jobs,
        vectors=vectors,
        indexer=indexer,
        worker=worker,
        intake=intake,
        folders=Folders(notes, intake, jobs, vectors, worker),
        pulls=Pulls(gateway, store),
        mcp=Servers(settings.data_dir / "mcp.json"),
        consents=Consents(database),
    )


def _feed(host: Services) -> Feed:
    """Return the stream of what a page shows."""

    async def thread(look: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(look)

    return Feed(
        {
            "status": lambda: status.look(host),
            "sessions": lambda: thread(lambda: chat.sessions(host, "")),
            "tasks": lambda: thread(lambda: tasks.tasks(host)),
            "models": lambda: thread(
                lambda: {
                    "models": models.models(host),
                    "providers": models.providers(host),
                    "capabilities": models.all_capabilities(host),
                }
            ),
            "pulls": lambda: thread(lambda: pulls.pulls(host)),
            "folders": host.folders.all,
        }
    )


def create_app(settings: HostSettings, key: str | None, directory: Directory) -> ASGIApp:
    """Return the application as ``mlx-host serve`` runs it: behind the guard, which asks for ``key``, if any."""
    guard = Guard(
        build(settings, directory=directory),
        refuse=_refuse,
        key=key,
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
