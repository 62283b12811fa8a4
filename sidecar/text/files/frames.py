"""Frames of a video or of an animated picture, with their times. In the child alone.

Frames are spread evenly over the whole, as mlx-vlm spreads them: so many for a second, four at least where there are
as many, and no more than the request has room for. Animations (GIF, WebP, PNG) are read by Pillow; videos by OpenCV,
which mlx-vlm brings along where it is installed from a package index, and which a frozen build holds only if it was
built with it: its 190 MB are too many for what few apps need.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from sidecar.text.files.pages import FileRead, Page, ReadError, Wanted

LEAST = 4
"""Frames that a short video is shown by, where it has as many."""
_ANIMATIONS = ("GIF", "WEBP", "PNG")
_MOST = 200_000  # frames that are counted one by one, where the file doesn't say how many it has


def read(data: bytes, wanted: Wanted) -> FileRead:
    """Return frames as pages, each called by its time. Raises ReadError."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data), formats=_ANIMATIONS)
    except UnidentifiedImageError:
        return _video(data, wanted)
    with image:
        return _animation(image, wanted)


def chosen(total: int, seconds: float, wanted: Wanted) -> list[int]:
    """Return the indexes of the frames to show, evenly spread over ``total``, the first and the last among them."""
    count = max(1, min(total, wanted.frames, max(LEAST, round(seconds * wanted.fps))))
    return sorted({round(i * (total - 1) / max(1, count - 1)) for i in range(count)})


def clock(seconds: float) -> str:
    """Return a time as people read it: 1:02.5."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}:{minutes:02}' if hours else minutes}:{rest // 10:02}.{rest % 10}"


def _read(frames: list[tuple[float, Any]], total: int, seconds: float, wanted: Wanted) -> FileRead:
    pages = []
    for number, (time, image) in enumerate(frames, 1):
        image.thumbnail((wanted.side, wanted.side))
        sink = io.BytesIO()
        image.save(sink, "PNG", compress_level=1)
        pages.append(Page(number=number, name=f"at {clock(time)}", text="", picture=sink.getvalue()))
    return FileRead(pages=tuple(pages), total=total, seconds=seconds)


def _animation(image: Any, wanted: Wanted) -> FileRead:
    total = int(getattr(image, "n_frames", 1))
    begins = []
    seconds = 0.0
    for index in range(total):
        image.seek(index)
        image.load()  # a WebP frame's duration is known when it is decoded, and no sooner
        begins.append(seconds)
        seconds += float(image.info.get("duration") or 100) / 1000  # ms; browsers take 100 where a file says nothing
    frames = []
    for index in chosen(total, seconds, wanted):
        image.seek(index)
        frames.append((begins[index], _on_white(image)))
    return _read(frames, total, seconds, wanted)


def _on_white(image: Any) -> Any:
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    shown = image.convert("RGBA")
    ground = Image.new("RGBA", shown.size, "white")
    return Image.alpha_composite(ground, shown).convert("RGB")


def _video(data: bytes, wanted: Wanted) -> FileRead:
    try:
        import cv2
    except ImportError as exc:
        frozen = getattr(sys, "frozen", False)
        how = "this build reads no videos" if frozen else "reading videos needs opencv-python (pip install it)"
        raise ReadError(f"{how}: send an animated GIF or WebP, or frames of it as images, in their order") from exc
    cv2.setNumThreads(1)
    source: Any = io.BytesIO(data)  # it takes whatever can be read and sought
    capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, [])
    if not capture.isOpened():
        raise ReadError("it is no video that can be read (MP4, MOV, WebM, MKV and AVI can); is it complete?")
    rate = capture.get(cv2.CAP_PROP_FPS) or 0.0
    rate = rate if 0 < rate <= 1000 else 25.0
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if not 0 < total < 1 << 31:
        total = _counted(capture)
        source = io.BytesIO(data)
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, [])
    frames = []
    for index in chosen(total, total / rate, wanted) if total else []:
        if found := _frame(capture, index):
            frames.append((found[0] if found[0] or not index else index / rate, found[1]))
    if not frames:
        raise ReadError("no frame of this video can be read; is it complete?")
    return _read(frames, total, total / rate, wanted)


def _counted(capture: Any) -> int:
    """Return how many frames there are, by taking one after the other: streams written live don't say."""
    count = 0
    while count < _MOST and capture.grab():
        count += 1
    return count


def _frame(capture: Any, index: int) -> tuple[float, Any] | None:
    """Return a frame's time [s] and its picture; None where it can't be read (counts of containers are estimates)."""
    import cv2
    from PIL import Image

    if int(capture.get(cv2.CAP_PROP_POS_FRAMES)) != index:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
    there, pixels = capture.read()
    time = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000  # of the frame that was read last
    return (max(0.0, time), Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))) if there else None
