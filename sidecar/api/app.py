"""The web application: routes behind the guard."""

from __future__ import annotations

import logging
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidecar import __version__, errors
from sidecar.api import chat, completions, embeddings, health, models
from sidecar.api.guard import Guard
from sidecar.api.service import Service

log = logging.getLogger("sidecar.api")


def create_app(service: Service, *, token: str | None) -> ASGIApp:
    """The ASGI application for ``service``; ``token`` is the bearer token clients must send, if any."""
    app = FastAPI(title="mlx-sidecar", version=__version__, docs_url="/docs", redoc_url=None)
    app.state.service = service
    errors.install(app)
    for module in (health, models, chat, completions, embeddings):
        app.include_router(module.router)

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Prometheus metrics."""
        return Response(request.app.state.service.metrics(), media_type="text/plain; version=0.0.4")

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    settings = service.settings
    guard = Guard(
        app,
        token=token,
        draining=lambda: service.draining,
        max_body=int(settings.max_body_mb * 1024 * 1024),
        client_timeout=settings.client_timeout,
        origins=settings.allow_origin,
        hosts=settings.allow_host,
    )
    return _Access(guard, service)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; validation errors are 400s here, so FastAPI's 422 of its own is taken out."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for path in document["paths"].values():
            for operation in path.values():
                answer = operation["responses"].get("422", {})
                if "HTTPValidationError" in str(answer):
                    del operation["responses"]["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


class _Access:
    """One log line and one count a request."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        start = time.monotonic()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            path = scope["path"]
            if path not in ("/health", "/health/ready"):
                log.info('"%s %s" %d %.0f ms', scope["method"], path, status, (time.monotonic() - start) * 1000)
            route = scope.get("route")
            self._service.meter.request(getattr(route, "path", "other"), status)
