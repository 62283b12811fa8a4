"""A file that comes in a form."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import UploadFile

from host_api.app.errors import ApiError


async def upload(request: Request) -> tuple[str, bytes, list[str]]:
    """Return a form's file, its name, and the words of its field ``vocabulary``, which commas part."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(422, "Send the file as multipart form data, in a field called file.", code="invalid_request")
    async with request.form(max_files=1, max_fields=10) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise ApiError(422, "The form has no file in a field called file.", code="invalid_request")
        name = (upload.filename or "document").replace("\\", "/").rpartition("/")[2]
        content = await upload.read()
        words = form.get("vocabulary")
        vocabulary = [w.strip() for w in words.split(",") if w.strip()] if isinstance(words, str) else []
    if not content:
        raise ApiError(422, f"{name} is empty.", code="invalid_request")
    return name, content, vocabulary[:500]
