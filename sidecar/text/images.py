"""Images of a request: from encoded bytes to pixels, within limits."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

from host_api.loopback import pictures
from sidecar.config import Settings
from sidecar.errors import bad_request, check_memory


@dataclass(frozen=True)
class Picture:
    """A decoded image: a PIL RGB image, the SHA-256 of its pixels, and width and height of what was sent."""

    image: Any
    digest: str
    sent: tuple[int, int] = (0, 0)


def decode(data: bytes, settings: Settings, *, param: str, side: int = 0) -> Picture:
    """Return the pixels of an encoded image as a viewer shows it, scaled down. Raises ApiError. Blocking.

    ``side``: pixels of the longer side, where that is less than the settings say.
    """
    side = min(side or settings.image_side, settings.image_side)
    try:
        image = pictures.first(data, side=side, pixels=int(settings.max_image_mpx * 1e6))
    except pictures.PictureError as exc:
        if exc.__cause__ is not None:
            check_memory(exc.__cause__)
        code = {"code": "image_too_large"} if exc.code == "too_large" else {}
        raise bad_request(f"{param}: {exc}.", param=param, **code) from exc
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return Picture(image, digest, _size(data))


def _size(data: bytes) -> tuple[int, int]:
    """Return width and height of an encoded image as a viewer shows it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = image.size
    except Exception:  # it was decoded already: only its size is not told
        return (0, 0)
    return (height, width) if turned else (width, height)
