"""Every error as OpenAI's envelope, on every path: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from sidecar.errors import ApiError, envelope

log = logging.getLogger("sidecar.api")
_PLACES = frozenset({"body", "query", "path", "header"})  # where FastAPI found a field


def install(app: FastAPI) -> None:
    """Make every error of ``app`` an OpenAI envelope."""

    @app.exception_handler(ApiError)
    async def _known(_: Request, exc: ApiError) -> JSONResponse:
        return JSONResponse(exc.body(), exc.status_code, exc.headers)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, exc: HTTPException) -> JSONResponse:
        # What the guard raises while a body is read comes wrapped in FastAPI's own "error parsing the body".
        if isinstance(exc.__cause__, ApiError):
            return await _known(_, exc.__cause__)
        message = {
            400: "The body is not valid JSON, or nested too deeply.",
            404: "There is nothing at this path; /docs lists what there is.",
            405: "This path does not take that method.",
        }.get(exc.status_code, str(exc.detail))
        return JSONResponse(envelope(exc.status_code, message), exc.status_code, exc.headers)

    @app.exception_handler(ValidationError)
    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, exc: RequestValidationError | ValidationError) -> JSONResponse:
        # A body of another API is told as a chat's, whose fields may mind what its own did not.
        first = exc.errors()[0]
        where = [str(part) for part in first.get("loc", ()) if str(part) not in _PLACES and str(part)[:1] != "<"]
        param = ".".join(where) or None
        if first.get("type") == "json_invalid":
            message, param = f"The body is not valid JSON: {first.get('ctx', {}).get('error', '')}.", None
        else:
            message = f"{param or 'body'}: {first.get('msg', 'is not valid')}"
        return JSONResponse(envelope(400, message, None, param), 400)

    @app.exception_handler(Exception)
    async def _crash(request: Request, exc: Exception) -> JSONResponse:
        log.error("unexpected error on %s %s", request.method, request.url.path, exc_info=exc)
        return JSONResponse(envelope(500, "The server met an unexpected error; its log has the details."), 500)
