"""Images of a request: from encoded bytes to pixels, within limits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from host_api.loopback import pictures
from sidecar.config import Settings
from sidecar.errors import bad_request, check_memory


@dataclass(frozen=True)
class Picture:
    """A decoded image: a PIL RGB image and the SHA-256 of its pixels."""

    image: Any
    digest: str


def decode(data: bytes, settings: Settings, *, param: str) -> Picture:
    """Return the pixels of an encoded image as a viewer shows it, scaled down. Raises ApiError. Blocking."""
    try:
        image = pictures.first(data, side=settings.image_side, pixels=int(settings.max_image_mpx * 1e6))
    except pictures.PictureError as exc:
        if exc.__cause__ is not None:
            check_memory(exc.__cause__)
        code = {"code": "image_too_large"} if exc.code == "too_large" else {}
        raise bad_request(f"{param}: {exc}.", param=param, **code) from exc
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return Picture(image, digest)
