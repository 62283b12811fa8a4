"""Errors a client sees, as plain exceptions: the engine process raises them too and knows no web framework."""

from __future__ import annotations

from typing import Any

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


class ApiError(Exception):
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
        super().__init__(message)
        self.status_code = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.extra = extra or {}

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that go with it."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def body(self) -> dict[str, Any]:
        """Return the JSON document to send."""
        return envelope(self.status_code, self.message, self.code, self.param, **self.extra)


class LoadError(Exception):
    """A model that can't be loaded; the message says why."""


def envelope(
    status: int, message: str, code: str | None = None, param: str | None = None, **extra: Any
) -> dict[str, Any]:
    """Return OpenAI's error document for an HTTP status."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code, **extra}}


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Return a 400 that names the parameter."""
    return ApiError(400, message, param=param, code=code)


class OutOfMemory(BaseException):
    """An allocation failed: nothing this process does next can be relied on.

    Not an Exception, so that no handler takes it for the fault of a request or of a model: the engine ends, the next
    one begins with all memory given back, and what ran goes on there.
    """


_MEMORY = (
    "unable to allocate",
    "cannot allocate memory",
    "out of memory",
    "insufficient memory",
    "bad_alloc",
    "can't start new thread",
    "failed to map segment",  # a library that is loaded when memory has ended
)


def ran_out_of_memory(exc: BaseException) -> bool:
    """Return whether an error says that an allocation failed: Python's, MLX's, Metal's, CUDA's, or a thread's."""
    return isinstance(exc, MemoryError) or any(words in str(exc).lower() for words in _MEMORY)


def check_memory(exc: BaseException) -> None:
    """Raise OutOfMemory where ``exc`` says that an allocation failed; call where errors become somebody's fault."""
    if ran_out_of_memory(exc):
        raise OutOfMemory(str(exc)) from exc
