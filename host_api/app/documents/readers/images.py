"""Picture files, and pictures within other files: as PNGs small enough for a model to look at."""

from __future__ import annotations

import gzip
import io
import re
import zlib

from host_api.app.documents.content import DocumentError, Limits, PageBuilder, Reading, broken
from host_api.app.documents.readers.archive import local, parse
from host_api.loopback import pictures
from host_api.loopback.pictures import PictureError

_SVG = re.compile(rb"<(\w+:)?svg[\s>]")
_VECTOR = (b"\x01\x00\x00\x00", b"\xd7\xcd\xc6\x9a")  # EMF and placeable WMF


def png_of(content: bytes, limits: Limits) -> bytes | None:
    """Return a picture found in another file as PNG; None for one too small to mean anything. Raises DocumentError."""
    if is_svg(content):
        return svg(content, limits)
    try:
        image = pictures.first(content, side=limits.side, pixels=limits.pixels, formats=pictures.EVERY)
    except PictureError as exc:
        if content.startswith(_VECTOR):
            raise broken("a drawing in Windows' own format (EMF, WMF) can't be shown") from exc
        raise broken(f"{exc}") from exc
    if min(image.size) < limits.smallest:
        return None
    return pictures.png(image)


def read(content: bytes, limits: Limits) -> Reading:
    """Return a picture file as pages: one for every page of a TIFF, one for everything else. Raises DocumentError."""
    if is_svg(content):
        return _page_of_svg(content, limits)
    try:
        found = pictures.frames(
            content, side=limits.page_side, pixels=limits.pixels, most=limits.pages, formats=pictures.EVERY
        )
    except PictureError as exc:
        raise DocumentError(422, f"The picture can't be opened: {exc}.", "document_broken") from exc
    pages = []
    for number, image in enumerate(found, 1):
        made = PageBuilder(limits)
        if len(found) == 1:
            image.thumbnail((limits.side, limits.side))
        made.picture(pictures.png(image))
        pages.append(made.page(number))
    return Reading(len(pages), pages)


def is_svg(content: bytes) -> bool:
    """Tell whether this is an SVG, packed or not."""
    if content[:2] == b"\x1f\x8b":
        content = _unpacked(content, 4096)
    return bool(_SVG.search(content[:4096])) and b"<html" not in content[:1024].lower()


def _unpacked(content: bytes, most: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return file.read(most)
    except (OSError, EOFError, zlib.error):
        return b""


def svg(content: bytes, limits: Limits) -> bytes:
    """Return an SVG drawn over white. Nothing it refers to is fetched. Raises a 422."""
    if content[:2] == b"\x1f\x8b":
        content = _unpacked(content, limits.characters)
    try:
        import resvg_py

        drawn = resvg_py.svg_to_bytes(svg_string=_alone(content), background="white", width=limits.side)
        image = pictures.first(bytes(drawn), side=limits.side, pixels=limits.pixels)
    except (ValueError, PictureError, OverflowError) as exc:
        raise broken(f"The SVG can't be drawn ({exc}).") from exc
    return pictures.png(image)


def _alone(content: bytes) -> str:
    """Return an SVG without what it refers to: resvg opens files of this machine by their paths. Raises ValueError."""
    from lxml import etree

    root = parse(content)
    if root is None:
        raise ValueError("it is no XML")
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name.rpartition("}")[2] == "href" and not str(value).strip().startswith(("#", "data:")):
                del element.attrib[name]
    return str(etree.tostring(root, encoding="unicode"))


def _page_of_svg(content: bytes, limits: Limits) -> Reading:
    """Return an SVG as one page: its title, its words, and the drawing."""
    drawn = svg(content, limits)
    made = PageBuilder(limits)
    root = parse(_unpacked(content, limits.characters) if content[:2] == b"\x1f\x8b" else content)
    alt = ""
    if root is not None:
        for element in root.iter():
            if local(element) in ("title", "desc") and element.text:
                alt = alt or element.text
            elif local(element) == "text":
                made.text(" ".join(" ".join(element.itertext()).split()))
    made.picture(drawn, alt)
    return Reading(1, (made.page(1),))
