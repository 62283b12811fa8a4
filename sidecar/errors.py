"""Errors as OpenAI's envelope: ``{"error": {"message", "type", "param", "code"}}`` on every path."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

log = logging.getLogger("sidecar.api")

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ApiError(HTTPException):
    """An error a client sees. ``status`` is the HTTP status; ``code`` one of OpenAI's or ours."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        headers = {"Retry-After": str(retry_after)} if retry_after is not None else None
        super().__init__(status, message, headers)
        self.message = message
        self.code = code
        self.param = param
        self.extra = extra or {}

    def body(self) -> dict[str, Any]:
        """The JSON document sent."""
        return envelope(self.status_code, self.message, self.code, self.param, **self.extra)


def envelope(
    status: int, message: str, code: str | None = None, param: str | None = None, **extra: Any
) -> dict[str, Any]:
    """OpenAI's error document for an HTTP status."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code, **extra}}


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 that names the parameter."""
    return ApiError(400, message, param=param, code=code)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` an OpenAI envelope."""

    @app.exception_handler(HTTPException)
    async def _http(_: Request, exc: HTTPException) -> JSONResponse:
        if isinstance(exc, ApiError):
            return JSONResponse(exc.body(), exc.status_code, exc.headers)
        message = {404: "There is nothing at this path.", 405: "This path does not take that method."}.get(
            exc.status_code, str(exc.detail)
        )
        return JSONResponse(envelope(exc.status_code, message), exc.status_code, exc.headers)

    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, exc: RequestValidationError) -> JSONResponse:
        first = exc.errors()[0]
        where = [str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path", "header")]
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
