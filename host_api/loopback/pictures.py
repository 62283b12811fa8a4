"""Open pictures as a viewer shows them, in bounded memory. Used by the server and by the host service alike.

What a viewer does and a decoder does not: it turns a photograph by its EXIF tag, lays transparency over white, brings
16-bit, float, CMYK, Lab and wide-gamut pixels to sRGB, and shows the first frame of an animation but every page of a
TIFF.

Memory: a PNG of 208 KB can hold 50 million pixels. Flattening such a picture and then scaling it held five copies
(937 MB). Now JPEGs are scaled while they are decoded, and everything else is flattened and reduced strip by strip
from the decoder's own buffer, so that the peak is that one buffer (at most 4 bytes a pixel) and a strip. Pictures are
decoded one after the other in a process, which bounds what many threads can hold at once, and what they held goes back
to the system (``_known``). Python's warning filters, which are the process's and not the thread's, may be silenced
meanwhile.

Pillow is imported by the functions, since importing this module must cost nothing.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

COMMON = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
EVERY = (*COMMON, "HEIF", "JPEG2000", "ICO", "PPM")
_STRIP = 1_000_000  # pixels flattened at a time
_BLOCK = 64 << 20  # bytes
_SPARE = 2  # how many times larger than asked a picture stays until the last, best scaling
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
_TURNS |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
_QUARTER = (5, 6, 7, 8)
_one = threading.Lock()


class PictureError(Exception):
    """A picture that can't be opened. ``code`` is ``unknown``, ``too_large`` or ``damaged``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def first(data: bytes, *, side: int, pixels: int, formats: Sequence[str] = COMMON) -> Any:
    """Return the picture in ``data`` as an RGB PIL image whose longer side is at most ``side``.

    ``pixels`` is the most that may be decoded, as the file says before anything is. Raises PictureError. Blocking.
    """
    return sized(data, side=side, pixels=pixels, formats=formats)[0]


def sized(data: bytes, *, side: int, pixels: int, formats: Sequence[str] = COMMON) -> tuple[Any, tuple[int, int]]:
    """Return what ``first`` does, and width and height of the picture as it was sent, as a viewer shows it."""
    with _opened(data, pixels, formats) as image:
        width, height = image.size
        shown, turned = _shown(image, side)
        return shown, (height, width) if turned else (width, height)


def frames(data: bytes, *, side: int, pixels: int, most: int, formats: Sequence[str] = EVERY) -> list[Any]:
    """Return every page of a TIFF (at most ``most``), and the first frame of anything else, as ``first`` does.

    Thumbnails and masks that a TIFF keeps beside its pages are left out. Raises PictureError. Blocking.
    """
    with _opened(data, pixels, formats) as image:
        found: list[Any] = []
        for number in range(getattr(image, "n_frames", 1) if image.format == "TIFF" else 1):
            if len(found) == most:
                break
            if number:
                image.seek(number)
                _check_size(image, pixels)
            if image.format == "TIFF" and image.tag_v2.get(254, 0) & 5 and number:  # NewSubfileType: reduced, mask
                continue
            found.append(_shown(image, side)[0])
        return found


def png(image: Any) -> bytes:
    """Return a PIL image as the bytes of a PNG file."""
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


@contextlib.contextmanager
def _opened(data: bytes, pixels: int, formats: Sequence[str]) -> Iterator[Any]:
    """Open a picture for the time of a ``with``, and turn what decoders raise into PictureError."""
    from PIL import Image, UnidentifiedImageError

    known = _known(formats)
    try:
        with _one, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=known) as image:
                try:
                    _check_size(image, pixels)
                    yield image
                finally:
                    image.close()  # its pixels go before the next thread's turn, not when this frame does
    except PictureError:
        raise
    except UnidentifiedImageError as exc:
        raise PictureError("unknown", f"not an image of a known format ({', '.join(known)})") from exc
    except Image.DecompressionBombError as exc:
        raise PictureError("too_large", str(exc)) from exc
    except MemoryError as exc:
        raise PictureError("too_large", "the image takes more memory than there is") from exc
    except Exception as exc:  # decoders raise what they like over a damaged file
        raise PictureError("damaged", f"the image is damaged ({exc or type(exc).__name__})") from exc


def _known(formats: Sequence[str]) -> list[str]:
    """Return those of ``formats`` that this installation can decode; HEIC needs the package pi-heif."""
    from PIL import Image, features

    if "HEIF" in formats and "HEIF" not in Image.OPEN:
        with contextlib.suppress(ImportError):
            import pi_heif

            pi_heif.register_heif_opener(thumbnails=False)
    Image.init()
    # Pillow takes its pixels 16 MiB at a time, which the C library's allocator gives back to the thread's own store
    # and not to the system: each of four threads kept 300 MB after one picture. Blocks over 32 MiB are mapped.
    core: Any = Image.core  # type: ignore[attr-defined]
    core.set_block_size(_BLOCK)
    missing = set() if features.check("avif") else {"AVIF"}
    return [name for name in formats if name in Image.OPEN and name not in missing]


def _check_size(image: Any, pixels: int) -> None:
    if image.width * image.height > pixels:
        raise PictureError(
            "too_large",
            f"the image has {image.width} × {image.height} pixels; "
            f"at most {pixels / 1e6:g} megapixels are taken, so scale it down",
        )


def _shown(image: Any, side: int) -> tuple[Any, bool]:
    """Return the frame that ``image`` is at as it is shown: scaled, RGB, over white, in sRGB and upright.

    And whether it was turned by a quarter for that.
    """
    from PIL import Image

    image.draft(None, (side * _SPARE, side * _SPARE))  # JPEG alone can: its decoder then leaves out what isn't needed
    image.load()
    profile = image.info.get("icc_profile")
    orientation = 1
    with contextlib.suppress(Exception):  # an EXIF block may be broken in any way; the picture is still shown
        orientation = image.getexif().get(0x0112, 1)
    flat = _reduced(image, side)
    flat.thumbnail((side, side), Image.Resampling.LANCZOS)
    shown = _srgb(flat, profile)
    turn = _TURNS.get(orientation)
    return (shown.transpose(Image.Transpose[turn]) if turn else shown), orientation in _QUARTER


def _reduced(image: Any, side: int) -> Any:
    """Return a flat copy of ``image`` (L, RGB, CMYK or LAB), made smaller by a whole factor, strip by strip."""
    from PIL import Image

    factor = max(1, max(image.size) // (side * _SPARE))
    levels = _levels(image)
    if factor == 1:
        return _flat(image.copy(), levels)
    width, height = image.size
    rows = max(factor, _STRIP // width // factor * factor)
    out = None
    for top in range(0, height, rows):
        strip = _flat(image.crop((0, top, width, min(top + rows, height))), levels).reduce(factor)
        if out is None:
            out = Image.new(strip.mode, (strip.width, -(-height // factor)))
        out.paste(strip, (0, top // factor))
    return out


def _levels(image: Any) -> tuple[float, float]:
    """Return the values shown as black and as white: told by the range of the pixels where the mode doesn't say."""
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode in ("I", "F"):
        low, high = (float(v) for v in image.getextrema())
        if low >= 0 and high <= 1 and image.mode == "F":
            return 0.0, 1.0
        for top in (255.0, 65535.0):
            if low >= 0 and high <= top:
                return 0.0, top
        return (low, high) if low < high else (low, low + 1)
    return 0.0, 255.0


def _flat(image: Any, levels: tuple[float, float]) -> Any:
    """Return ``image`` without alpha (over white) and with 8 bits a channel."""
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        straight = image.convert("LA") if image.mode == "La" else image  # Pillow has no way from La to RGBA
        rgba = straight.convert("RGBA")
        ground = Image.new("RGB", rgba.size, (255, 255, 255))
        ground.paste(rgba, mask=rgba.getchannel("A"))
        return ground
    if image.mode.startswith("I") or image.mode == "F":
        low, high = levels
        scale, offset = 255.0 / (high - low), -low * 255.0 / (high - low)
        return image.convert("F").point(lambda v: v * scale + offset).convert("L")
    if image.mode in ("CMYK", "LAB", "L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _srgb(image: Any, profile: bytes | None) -> Any:
    """Return ``image`` in sRGB, by its ICC profile where it has one that fits."""
    from PIL import Image, ImageCms

    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            turned = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if isinstance(turned, Image.Image):
                return turned
    return image.convert("RGB")
