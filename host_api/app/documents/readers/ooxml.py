"""What Word, PowerPoint and Excel files have in common: parts and relations, pictures, charts, SmartArt.

The walkers read the XML themselves. python-docx, python-pptx and openpyxl show no footnotes, comments, text boxes,
SmartArt or charts' data in order, docling leaves out notes and hidden things, and each keeps the whole file as
objects (1.3 GB for 40,000 rows). Elements are told by their local names, since strict and transitional files differ
in their namespaces alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from host_api.app.documents.content import DocumentError, PageBuilder, alt_text
from host_api.app.documents.readers import images
from host_api.app.documents.readers.archive import Archive, attribute, beside, children, descendant, local

_PICTURES = 2_000  # pictures decoded for a file; the same one again is taken from here


@dataclass(frozen=True)
class Relation:
    """Where a part points: ``kind`` is the last word of the relation's type."""

    kind: str
    target: str
    outside: bool


class Package:
    """The parts of an Office file, and what was met that couldn't be read."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.notes: list[str] = []
        self._relations: dict[str, dict[str, Relation]] = {}

    def relations(self, part: str) -> dict[str, Relation]:
        """Return a part's relations by their ids."""
        if part not in self._relations:
            folder, _, name = part.rpartition("/")
            root = self.archive.xml(f"{folder}/_rels/{name}.rels" if folder else f"_rels/{name}.rels")
            found = {}
            for each in children(root, "Relationship") if root is not None else ():
                outside = each.get("TargetMode") == "External"
                target = each.get("Target", "")
                kind = each.get("Type", "").rpartition("/")[2]
                found[each.get("Id", "")] = Relation(kind, target if outside else beside(part, target), outside)
            self._relations[part] = found
        return self._relations[part]

    def related(self, part: str, *kinds: str) -> Iterator[str]:
        """Yield the parts that ``part`` points to by a relation of these kinds."""
        for relation in self.relations(part).values():
            if relation.kind in kinds and not relation.outside:
                yield relation.target

    @cached_property
    def main(self) -> str:
        """The part that the file is about: the document, the presentation, the workbook."""
        return next(self.related("", "officeDocument"), "")

    def picture(self, part: str, relation: str, made: PageBuilder, alt: str, frame: Any = None) -> None:
        """Add the picture that ``part`` means by a relation's id, cropped and turned as ``frame`` says."""
        found = self.relations(part).get(relation)
        content = self.archive.read(found.target) if found is not None and not found.outside else b""
        try:
            png = images.png_of(content, made.limits) if content else None
        except DocumentError as exc:
            self.notes.append(f"a picture was left out: {exc.message}")
            png = None
        if png is not None:
            made.picture(_as_framed(png, frame) if frame is not None else png, alt)
        else:
            made.note("picture", alt_text(alt))


def alt_of(element: Any) -> str:
    """Return the alternative text that a drawing carries."""
    for each in element.iter():
        if local(each) in ("docPr", "cNvPr"):
            return attribute(each, "descr") or attribute(each, "title")
    return ""


def draw(package: Package, part: str, element: Any, made: PageBuilder) -> None:
    """Add what a drawing shows: pictures, charts and SmartArt within ``element``, in order."""
    for each in element.iter():
        name = local(each)
        if name == "blip" and (relation := attribute(each, "embed")):
            frame = each.getparent()
            holder = frame.getparent() if frame is not None else None
            alt = alt_of(holder if holder is not None and local(holder) == "pic" else element)
            package.picture(part, relation, made, alt or alt_of(element), holder)
        elif name == "imagedata" and (relation := attribute(each, "id")):
            package.picture(part, relation, made, attribute(each, "title") or attribute(each.getparent(), "alt"))
        elif name == "chart" and (relation := attribute(each, "id")):
            target = package.relations(part).get(relation)
            if target is not None:
                chart(package.archive.xml(target.target), made, alt_of(element))
        elif name == "relIds" and (relation := attribute(each, "dm")):
            target = package.relations(part).get(relation)
            if target is not None:
                smart_art(package.archive.xml(target.target), made)


def _as_framed(png: bytes, frame: Any) -> bytes:
    """Return a picture cropped, mirrored and turned as its frame in the file shows it."""
    from PIL import Image

    crop = descendant(frame, "srcRect")
    form = descendant(frame, "xfrm")
    edges = [int(crop.get(k, 0)) / 100_000 for k in "ltrb"] if crop is not None else [0.0] * 4
    turn = int(form.get("rot", 0)) / 60_000 if form is not None else 0.0
    flips = [form is not None and form.get(k) in ("1", "true") for k in ("flipH", "flipV")]
    if not any((*edges, turn, *flips)):
        return png
    image = Image.open(io.BytesIO(png)).convert("RGB")
    left, top, right, bottom = (max(0.0, min(e, 0.95)) for e in edges)
    if left + right < 1 and top + bottom < 1:
        width, height = image.size
        box = (int(left * width), int(top * height), round((1 - right) * width), round((1 - bottom) * height))
        image = image.crop(box) if box[2] > box[0] and box[3] > box[1] else image
    for flip, how in zip(flips, (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM), strict=True):
        image = image.transpose(how) if flip else image
    if turn:
        image = image.rotate(-turn, expand=True, fillcolor="white")
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def chart(root: Any, made: PageBuilder, alt: str = "") -> None:
    """Add a chart's title and its data as a table: a row for each category, a column for each series."""
    if root is None:
        return
    title = next((e for e in root.iter() if local(e) == "title"), None)
    words = "".join(e.text or "" for e in title.iter() if local(e) in ("t", "v")) if title is not None else ""
    made.note("chart", words or alt or "without a title")
    names: list[str] = []
    categories: dict[int, str] = {}
    columns: list[dict[int, str]] = []
    for series in (e for e in root.iter() if local(e) == "ser"):
        given = {local(e): e for e in series}
        names.append(" ".join(_points(given["tx"]).values()) if "tx" in given else f"series {len(names) + 1}")
        for key in ("cat", "xVal"):
            if key in given:
                categories |= {i: v for i, v in _points(given[key]).items() if i not in categories}
        values: dict[int, str] = {}
        for key in ("val", "yVal"):
            if key in given:
                values = _points(given[key])
        columns.append(values)
    places = sorted(set(categories).union(*columns))[:10_000]
    rows = [[categories.get(i, str(i + 1)), *(c.get(i, "") for c in columns)] for i in places]
    if rows:
        made.table([["category", *names], *rows])


def _points(element: Any) -> dict[int, str]:
    """Return the values that a chart keeps of a range, by their positions."""
    found: dict[int, str] = {}
    levels = [e for e in element.iter() if local(e) == "lvl"] or [element]
    for level in reversed(levels):  # outer levels of categories first
        for point in (e for e in level.iter() if local(e) == "pt"):
            value = "".join(e.text or "" for e in point if local(e) == "v")
            place = int(point.get("idx", 0))
            found[place] = f"{found[place]} {_number(value)}" if place in found else _number(value)
    if not found:
        text = "".join(e.text or "" for e in element.iter() if local(e) in ("t", "v"))
        return {0: text} if text else {}
    return found


def _number(value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:.10g}" if abs(number) < 1e15 else value


def smart_art(root: Any, made: PageBuilder) -> None:
    """Add the words of a SmartArt drawing, a line for each of its shapes."""
    if root is None:
        return
    for point in (e for e in root.iter() if local(e) == "pt"):
        words = " ".join("".join(e.text or "" for e in p.iter() if local(e) == "t") for p in paragraphs(point))
        made.text(f"- {words}" if words.strip() else "")


def paragraphs(element: Any) -> Iterator[Any]:
    """Yield the paragraphs of DrawingML or WordprocessingML within an element, outermost first."""
    return (e for e in element.iter() if local(e) == "p")
