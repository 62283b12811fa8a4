"""Errors of the host service: ``{"error": {"message", "code"}}`` on every path."""

from __future__ import annotations

import errno
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

log = logging.getLogger("host.api")
_ADVICE = {
    errno.ENOSPC: "Make room on the disk; nothing of this request was kept.",
    errno.EDQUOT: "Make room on the disk; nothing of this request was kept.",
    errno.EMFILE: "Too much is open at once; try again in a moment.",
    errno.ENFILE: "Too much is open on this machine; try again in a moment.",
}


class ApiError(HTTPException):
    """An error a client sees: HTTP status, a message that says what to do, a stable ``code``."""

    def __init__(self, status: int, message: str, *, code: str, retry_after: int | None = None) -> None:
        super().__init__(status, message, {"Retry-After": str(retry_after)} if retry_after is not None else None)
        self.message = message
        self.code = code

    def body(self) -> dict[str, Any]:
        """The JSON document sent."""
        return envelope(self.message, self.code)


def envelope(message: str, code: str) -> dict[str, Any]:
    """The error document."""
    return {"error": {"message": message, "code": code}}


def not_found(what: str, name: object, hint: str) -> ApiError:
    """A 404 that says how to see what there is."""
    return ApiError(404, f"There is no {what} {str(name)!r}. {hint}", code=f"{what.replace(' ', '_')}_not_found")


def install(app: FastAPI) -> None:
    """Make every error of ``app`` such a document."""

    @app.exception_handler(HTTPException)
    async def _http(_: Request, exc: HTTPException) -> JSONResponse:
        if isinstance(exc, ApiError):
            return JSONResponse(exc.body(), exc.status_code, exc.headers)
        known = {404: "There is nothing at this path.", 405: "This path does not take that method."}
        message = known.get(exc.status_code, str(exc.detail))
        return JSONResponse(envelope(message, f"http_{exc.status_code}"), exc.status_code, exc.headers)

    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, exc: RequestValidationError) -> JSONResponse:
        first = exc.errors()[0]
        where = ".".join(str(p) for p in first.get("loc", ()) if p not in ("body", "query", "path")) or "body"
        message = f"{where}: {first.get('msg', 'is not valid')}."
        if first.get("type") == "json_invalid":
            message = "The body is not valid JSON."
        return JSONResponse(envelope(message, "invalid_request"), 422)

    @app.exception_handler(SQLAlchemyError)
    async def _database(request: Request, exc: SQLAlchemyError) -> JSONResponse:
        why = str(getattr(exc, "orig", None) or type(exc).__name__)
        log.error("the database failed on %s: %s", request.method, why)
        words = f"The database can't be used now ({why}); nothing of this request was kept. Try again."
        return JSONResponse(envelope(words, "database_unavailable"), 503, {"Retry-After": "2"})

    @app.exception_handler(OSError)
    async def _system(request: Request, exc: OSError) -> JSONResponse:
        log.error("the system refused something on %s", request.method, exc_info=exc)
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        words = f"The system says: {exc.strerror or exc}. {_ADVICE.get(exc.errno or 0, 'Try again.')}"
        return JSONResponse(envelope(words, "disk_full" if full else "system"), 507 if full else 503)

    @app.exception_handler(Exception)
    async def _crash(request: Request, exc: Exception) -> JSONResponse:
        log.error("unexpected error on %s %s", request.method, request.url.path, exc_info=exc)
        return JSONResponse(envelope("The service met an unexpected error; its log has the details.", "internal"), 500)
