"""The web application: routes behind the guard."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.types import ASGIApp, Scope

from host_api.loopback import docs_page
from host_api.loopback.access_log import AccessLog
from host_api.loopback.guard import Guard
from sidecar import __version__
from sidecar.api import chat, completions, decisions, embeddings, errors, health, models, power, rerank
from sidecar.api.bodies import Bodies, RequestLines
from sidecar.api.messages import routes as messages
from sidecar.api.responses import routes as responses
from sidecar.api.responses.store import ResponseStore
from sidecar.api.service import Service
from sidecar.errors import ApiError

log = logging.getLogger("sidecar.api")
_HEALTH = frozenset({"/health", "/health/ready"})


def create_app(service: Service, *, token: str | None) -> ASGIApp:
    """The ASGI application for ``service``; ``token`` is the bearer token clients must send, if any."""
    app = FastAPI(title="mlx-sidecar", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    settings = service.settings
    errors.install(app)
    app.state.responses = ResponseStore(settings.response_dir)
    for module in (health, models, chat, completions, responses, messages, embeddings, decisions, rerank, power):
        app.include_router(module.router)

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Prometheus metrics."""
        return Response(request.app.state.service.metrics(), media_type="text/plain; version=0.0.4")

    @app.get("/", tags=["health"], include_in_schema=False)
    async def front() -> dict[str, str]:
        """Say who is here, for people and for clients that only look whether someone is."""
        return {"name": "mlx-sidecar", "version": __version__, "api": "/v1", "docs": "/docs", "health": "/health"}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """Show the API as a page that loads nothing."""
        return Response(docs_page.page(app.openapi()), media_type="text/html", headers=docs_page.HEADERS)

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    max_body = int(settings.max_body_mb * 1024 * 1024)
    guard = Guard(
        Bodies(app, refuse=_refuse_header, max_body=max_body),
        refuse=_refuse,
        key=token,
        max_body=max_body,
        client_timeout=settings.client_timeout,
        origins=settings.allow_origin,
        hosts=settings.allow_host,
        local_pages=True,
        open_paths=lambda method, path: path in _HEALTH,
        draining=lambda: service.draining,
        during_drain={*_HEALTH, "/metrics", "/version"},
        methods="GET, POST, DELETE, OPTIONS",
        expose="X-Request-Id, X-Request-Priority, Retry-After",
    )

    def done(scope: Scope, status: int) -> None:
        service.meter.request(getattr(scope.get("route"), "path", "other"), status)

    return AccessLog(messages.Envelopes(RequestLines(guard)), log, quiet=_HEALTH, done=done)


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


def _refuse_header(status: int, message: str, header: str | None) -> ApiError:
    return ApiError(status, message, param=header)


def _refuse(status: int, message: str, code: str, wait: int | None = None) -> ApiError:
    return ApiError(status, message, code=code, retry_after=wait)
