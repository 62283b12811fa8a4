"""The web application: routes behind the guard."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from sidecar import __version__, errors
from sidecar.guard import Guard
from sidecar.routes import health
from sidecar.service import Service


def create_app(service: Service, *, token: str | None) -> ASGIApp:
    """The ASGI application for ``service``; ``token`` is the bearer token clients must send, if any."""
    app = FastAPI(title="mlx-sidecar", version=__version__, docs_url="/docs", redoc_url=None)
    app.state.service = service
    errors.install(app)
    app.include_router(health.router)
    settings = service.settings
    return Guard(
        app,
        token=token,
        draining=lambda: service.draining,
        max_body=int(settings.max_body_mb * 1024 * 1024),
        client_timeout=settings.client_timeout,
        origins=settings.allow_origin,
        hosts=settings.allow_host,
    )
