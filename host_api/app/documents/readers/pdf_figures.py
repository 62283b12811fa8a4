"""What is a picture on a PDF's page, and its pixels: rendered as shown, never taken out of the file.

Pictures are found by where they stand. Bitmaps that touch or overlap are one (scanners and presentation programs cut
them into strips). Drawn lines and areas are a picture where they cluster, take a good part of the page and are more
than a table's rules or boxes around text: curves, slanted lines, or filled bars without words in them. A page nearly
covered is a scan: the page itself is the picture, in a resolution in which its print can be read, and the invisible
text that a scanner may have laid over it stays text.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from host_api.app.documents.content import Limits
from host_api.app.documents.readers.pdf_geometry import Box, Geometry
from host_api.app.documents.readers.pdf_layout import Segment
from host_api.loopback import pictures

_OBJECTS = 20_000  # of a page; what comes after them is not looked at
_DEPTH = 5  # forms within forms
_NEAR = 6.0  # points between parts of one drawing
_LEAST = 0.03  # of the page's area, for a drawing
_SCAN = 0.8  # of the page's area, for a scanned page
_SHARP = 2.0  # pixels a point of a drawing

Matrix = tuple[float, float, float, float, float, float]
_IDENTITY: Matrix = (1, 0, 0, 1, 0, 0)


@dataclass(frozen=True)
class Figure:
    """A picture of a page: where it stands as shown, and its pixels as PNG."""

    box: Box
    png: bytes


@dataclass
class _Part:
    """Something drawn: its box, the pixels a point it has (bitmaps), and what it is made of (paths)."""

    box: Box
    density: float = 0.0
    curved: int = 0  # segments that a table's rules or a frame don't have
    filled: bool = False


def figures(page: Any, geometry: Geometry, text: list[Segment], limits: Limits) -> list[Figure]:
    """Return a page's pictures from top to bottom."""
    bitmaps, paths = _parts(page, geometry)
    width, height = geometry.size
    area = max(width * height, 1.0)
    regions: list[tuple[Box, float]] = []
    for group in _clusters(bitmaps, 1.5):
        box, density = _around(group), max(p.density for p in group)
        if _area(box) > _SCAN * area:
            scale = limits.page_side / max(width, height)
            return [Figure((0, 0, width, height), _rendered(page, (0, 0, width, height), scale))]
        if min(box[2] - box[0], box[3] - box[1]) * density >= limits.smallest:
            regions.append((box, density))
    for group in _clusters(_drawn(paths, area), _NEAR):
        box = _around(group)
        if _area(box) > _LEAST * area and _is_drawing(group, text) and not _known(box, regions):
            regions = [r for r in regions if _area(_common(r[0], box)) < 0.9 * _area(r[0])]
            regions.append((_grown(box, text, width, height), _SHARP))
    found = []
    for box, density in sorted(regions, key=lambda r: (r[0][1], r[0][0]))[: limits.pictures_a_page * 2]:
        side = max(box[2] - box[0], box[3] - box[1])
        found.append(Figure(box, _rendered(page, box, min(density, limits.side / side))))
    return found


def _rendered(page: Any, box: Box, scale: float) -> bytes:
    """Return a part of the page as shown, ``scale`` pixels a point."""
    import pypdfium2
    from pypdfium2 import raw

    wide, high = (max(1, round((box[i + 2] - box[i]) * scale)) for i in (0, 1))
    bitmap = pypdfium2.PdfBitmap.new_native(wide, high, format=raw.FPDFBitmap_BGR, rev_byteorder=True)
    bitmap.fill_rect((255, 255, 255, 255), 0, 0, wide, high)
    matrix = raw.FS_MATRIX(scale, 0, 0, scale, -box[0] * scale, -box[1] * scale)
    clip = raw.FS_RECTF(0, 0, wide, high)
    flags = raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER
    raw.FPDF_RenderPageBitmapWithMatrix(bitmap, page, matrix, clip, flags)
    image = bitmap.to_pil()
    data = pictures.png(image.convert("RGB"))
    bitmap.close()
    return data


def _parts(page: Any, geometry: Geometry) -> tuple[list[_Part], list[_Part]]:
    from pypdfium2 import raw

    bitmaps: list[_Part] = []
    paths: list[_Part] = []
    shown = (0.0, 0.0, *geometry.size)
    for number, (item, matrix) in enumerate(_objects(page, None, _IDENTITY, 0)):
        if number > _OBJECTS:
            break
        kind = raw.FPDFPageObj_GetType(item)
        if kind not in (raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_PATH, raw.FPDF_PAGEOBJ_SHADING):
            continue
        bounds = _bounds(item, matrix)
        box = _common(geometry.box(*bounds), shown) if bounds else (0.0, 0.0, 0.0, 0.0)
        clip = _clip(item, matrix)
        if clip:
            box = _common(box, geometry.box(*clip))
        if box[2] - box[0] <= 0 or box[3] - box[1] <= 0:
            if kind != raw.FPDF_PAGEOBJ_PATH:
                continue
            box = (box[0], box[1], max(box[2], box[0] + 0.1), max(box[3], box[1] + 0.1))
        if kind == raw.FPDF_PAGEOBJ_IMAGE:
            density = _density(item, bounds or box)
            if density:
                bitmaps.append(_Part(box, density))
        else:
            paths.append(_path(item, box) if kind == raw.FPDF_PAGEOBJ_PATH else _Part(box, curved=3, filled=True))
    return bitmaps, paths


def _objects(page: Any, form: Any, matrix: Matrix, depth: int) -> Iterator[tuple[Any, Matrix]]:
    """Yield every object of a page with the way from its coordinates to the page's: forms have their own."""
    from pypdfium2 import raw

    count, get = (
        (raw.FPDFFormObj_CountObjects, raw.FPDFFormObj_GetObject)
        if form
        else (raw.FPDFPage_CountObjects, raw.FPDFPage_GetObject)
    )
    holder = form or page
    for i in range(min(count(holder), _OBJECTS)):
        item = get(holder, i)
        if not item:
            continue
        if raw.FPDFPageObj_GetType(item) == raw.FPDF_PAGEOBJ_FORM:
            own = raw.FS_MATRIX()
            if depth < _DEPTH and raw.FPDFPageObj_GetMatrix(item, own):
                yield from _objects(page, item, _times((own.a, own.b, own.c, own.d, own.e, own.f), matrix), depth + 1)
        else:
            yield item, matrix


def _times(a: Matrix, b: Matrix) -> Matrix:
    return (
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
        a[4] * b[0] + a[5] * b[2] + b[4],
        a[4] * b[1] + a[5] * b[3] + b[5],
    )


def _moved(points: list[tuple[float, float]], m: Matrix) -> tuple[float, float, float, float]:
    moved = [(x * m[0] + y * m[2] + m[4], x * m[1] + y * m[3] + m[5]) for x, y in points]
    xs, ys = [x for x, _ in moved], [y for _, y in moved]
    return min(xs), min(ys), max(xs), max(ys)


def _bounds(item: Any, matrix: Matrix) -> tuple[float, float, float, float] | None:
    from pypdfium2 import raw

    left, bottom, right, top = (ctypes.c_float() for _ in range(4))
    if not raw.FPDFPageObj_GetBounds(item, left, bottom, right, top):
        return None
    return _moved([(x.value, y.value) for x in (left, right) for y in (bottom, top)], matrix)


def _clip(item: Any, matrix: Matrix) -> tuple[float, float, float, float] | None:
    """Return the box of what an object is clipped to, or None."""
    from pypdfium2 import raw

    clip = raw.FPDFPageObj_GetClipPath(item)
    count = raw.FPDFClipPath_CountPaths(clip) if clip else -1
    found: tuple[float, float, float, float] | None = None
    for i in range(min(max(count, 0), 8)):
        points = []
        for j in range(min(max(raw.FPDFClipPath_CountPathSegments(clip, i), 0), 200)):
            x, y = ctypes.c_float(), ctypes.c_float()
            if raw.FPDFPathSegment_GetPoint(raw.FPDFClipPath_GetPathSegment(clip, i, j), x, y):
                points.append((x.value, y.value))
        if points:
            box = _moved(points, matrix)
            found = _common(found, box) if found else box
    return found


def _density(item: Any, bounds: tuple[float, float, float, float]) -> float:
    """Return how many pixels a point a bitmap has, along its denser side; 0 where that can't be told."""
    from pypdfium2 import raw

    wide, high = ctypes.c_uint(), ctypes.c_uint()
    if not raw.FPDFImageObj_GetImagePixelSize(item, wide, high):
        return 0.0
    width, height = max(bounds[2] - bounds[0], 1e-3), max(bounds[3] - bounds[1], 1e-3)
    ways = [(wide.value / width, high.value / height), (wide.value / height, high.value / width)]  # upright or turned
    return float(max(min(ways, key=lambda w: max(w) / max(min(w), 1e-6))))


def _path(item: Any, box: Box) -> _Part:
    from pypdfium2 import raw

    count = raw.FPDFPath_CountSegments(item)
    curved = 0
    last: tuple[float, float] | None = None
    for i in range(min(max(count, 0), 60)):
        segment = raw.FPDFPath_GetPathSegment(item, i)
        x, y = ctypes.c_float(), ctypes.c_float()
        if not segment or not raw.FPDFPathSegment_GetPoint(segment, x, y):
            continue
        kind = raw.FPDFPathSegment_GetType(segment)
        if kind == raw.FPDF_SEGMENT_BEZIERTO:
            curved += 1
        elif kind == raw.FPDF_SEGMENT_LINETO and last is not None:
            curved += min(abs(x.value - last[0]), abs(y.value - last[1])) > 1.0
        last = (x.value, y.value)
    filled = False
    mode, stroke = ctypes.c_int(), ctypes.c_int()
    if raw.FPDFPath_GetDrawMode(item, mode, stroke) and mode.value:
        r, g, b, a = (ctypes.c_uint() for _ in range(4))
        filled = bool(raw.FPDFPageObj_GetFillColor(item, r, g, b, a)) and min(r.value, g.value, b.value) < 245
    return _Part(box, curved=curved, filled=filled)


def _drawn(paths: list[_Part], area: float) -> list[_Part]:
    """Return what may be a drawing's: not the page's ground, nor too much to look at."""
    return [p for p in paths if _area(p.box) < 0.9 * area][:4000]


def _is_drawing(group: list[_Part], text: list[Segment]) -> bool:
    """Tell a drawing from a table's rules and from frames around text."""
    if sum(p.curved > 0 for p in group) >= 3 or any(p.curved > 12 for p in group):
        rounded = sum(p.curved in range(1, 9) for p in group)  # a frame with round corners has four to eight
        return any(p.curved > 8 for p in group) or rounded >= 3
    bars = [p for p in group if p.filled and min(p.box[2] - p.box[0], p.box[3] - p.box[1]) > 4]
    empty = [p for p in bars if not any(_inside(s.box, p.box) for s in text)]
    heights = {(round(p.box[2] - p.box[0]), round(p.box[3] - p.box[1])) for p in empty}
    return len(empty) >= 3 and len(heights) >= 2


def _inside(inner: Box, outer: Box) -> bool:
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] < x < outer[2] and outer[1] < y < outer[3]


def _known(box: Box, regions: list[tuple[Box, float]]) -> bool:
    return any(_area(_common(box, r)) > 0.7 * _area(box) for r, _ in regions)


def _grown(box: Box, text: list[Segment], width: float, height: float) -> Box:
    """Return a drawing's box with the short words that touch it: labels at its axes."""
    near = (box[0] - 12, box[1] - 12, box[2] + 12, box[3] + 12)
    for s in text:
        if len(s.text) < 25 and _area(_common(s.box, near)) > 0.3 * _area(s.box):
            box = (min(box[0], s.box[0]), min(box[1], s.box[1]), max(box[2], s.box[2]), max(box[3], s.box[3]))
    return max(0.0, box[0] - 2), max(0.0, box[1] - 2), min(width, box[2] + 2), min(height, box[3] + 2)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _common(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _around(group: list[_Part]) -> Box:
    return (
        min(p.box[0] for p in group),
        min(p.box[1] for p in group),
        max(p.box[2] for p in group),
        max(p.box[3] for p in group),
    )


def _clusters(parts: list[_Part], near: float) -> list[list[_Part]]:
    """Return the parts in groups whose members touch, within ``near`` points, sweeping from left to right."""
    order = sorted(parts, key=lambda p: p.box[0])
    parents = list(range(len(order)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    active: list[int] = []
    for i, part in enumerate(order):
        active = [j for j in active if order[j].box[2] + near >= part.box[0]]
        for j in active:
            if order[j].box[1] - near <= part.box[3] and part.box[1] - near <= order[j].box[3]:
                parents[root(i)] = root(j)
        active.append(i)
    groups: dict[int, list[_Part]] = {}
    for i, part in enumerate(order):
        groups.setdefault(root(i), []).append(part)
    return list(groups.values())
