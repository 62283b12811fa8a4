"""Images of a request: from encoded bytes to pixels, within limits."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from host_api.loopback import pictures
from sidecar.config import Settings
from sidecar.engine.asked import PictureData
from sidecar.errors import bad_request, check_memory

_LANCZOS = 1  # PIL's number, so that this module imports without PIL


@dataclass(frozen=True)
class Picture:
    """A decoded image: a PIL RGB image, the SHA-256 of its pixels, and width and height of what was sent."""

    image: Any
    digest: str
    sent: tuple[int, int] = (0, 0)


def decode(given: PictureData, settings: Settings) -> Picture:
    """Return the pixels of an encoded image as a viewer shows it, scaled. Raises ApiError. Blocking."""
    side = min(given.side or settings.image_side, settings.image_side)
    try:
        image, sent = pictures.sized(given.data, side=side, pixels=int(settings.max_image_mpx * 1e6))
    except pictures.PictureError as exc:
        if exc.__cause__ is not None:
            check_memory(exc.__cause__)
        code = {"code": "image_too_large"} if exc.code == "too_large" else {}
        raise bad_request(f"{given.param}: {exc}.", param=given.param, **code) from exc
    size = scaled(image.size, given.min_pixels, given.max_pixels, side)
    if size != image.size:
        image = image.resize(size, _LANCZOS)
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return Picture(image, digest, sent)


def scaled(size: tuple[int, int], least: int, most: int, side: int) -> tuple[int, int]:
    """Return the size [pixels] of an image that shall have ``least`` to ``most`` pixels (0: no limit), in its ratio.

    No side grows beyond ``side``, and none shrinks to nothing.
    """
    width, height = size
    pixels = width * height
    if most and pixels > most:
        factor = math.sqrt(most / pixels)
        return max(1, int(width * factor)), max(1, int(height * factor))
    if pixels < least:
        factor = min(math.sqrt(least / pixels), side / max(size))
        if factor > 1:
            larger = min(side, math.ceil(width * factor)), min(side, math.ceil(height * factor))
            if not most or larger[0] * larger[1] <= most:
                return larger
            return int(width * factor), int(height * factor)
    return size
