"""PowerPoint files: a page for every slide, with its notes and comments; hidden slides are marked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from host_api.app.documents.content import Limits, Page, PageBuilder, Reading, broken
from host_api.app.documents.readers.archive import Archive, attribute, children, descendant, local
from host_api.app.documents.readers.ooxml import Package, draw, paragraphs

_TITLES = ("title", "ctrTitle")
_PAGE_FURNITURE = ("sldNum", "dt", "ftr", "hdr", "sldImg")


def read(archive: Archive, limits: Limits) -> Reading:
    """Return a presentation's slides, in its order. Raises a 422."""
    package = Package(archive)
    root = archive.xml(package.main)
    order = descendant(root, "sldIdLst") if root is not None else None
    if root is None:
        raise broken("The presentation has no slides that can be read; is it complete?")
    known = package.relations(package.main)
    pages: list[Page] = []
    for each in children(order, "sldId") if order is not None else ():
        relation = known.get(next((v for k, v in each.attrib.items() if k.endswith("}id")), ""))
        slide = archive.xml(relation.target) if relation is not None else None
        if relation is not None and slide is not None and len(pages) < limits.pages:
            pages.append(_slide(package, relation.target, slide, len(pages) + 1, limits))
    return Reading(len(pages), pages, notes=package.notes)


def _slide(package: Package, part: str, slide: Any, number: int, limits: Limits) -> Page:
    made = PageBuilder(limits)
    if slide.get("show") in ("0", "false"):
        made.note("hidden", "this slide isn't shown")
    tree = descendant(slide, "spTree")
    shapes = list(_shapes(tree)) if tree is not None else []
    shapes.sort(key=lambda s: 0 if _placeholder(s) in _TITLES else 1)  # the order of the rest is the author's
    for shape in shapes:
        _shape(package, part, shape, made)
    for notes in package.related(part, "notesSlide"):
        root = package.archive.xml(notes)
        bodies = [s for s in _shapes(root) if _placeholder(s) not in _PAGE_FURNITURE] if root is not None else []
        made.note("speaker's notes", " ".join(filter(None, map(_words, bodies))))
    for comments in package.related(part, "comments"):
        root = package.archive.xml(comments)
        for comment in (e for e in root.iter() if local(e) in ("cm", "reply")) if root is not None else ():
            old = "".join(e.text or "" for e in children(comment, "text"))
            body = next(iter(children(comment, "txBody")), None)
            made.note("comment", old or (_words(body) if body is not None else ""))
    return made.page(number)


def _shapes(tree: Any) -> Iterator[Any]:
    for element in tree:
        name = local(element)
        if name in ("sp", "pic", "graphicFrame", "cxnSp"):
            yield element
        elif name in ("grpSp", "cSld", "spTree"):
            yield from _shapes(element)
        elif name == "AlternateContent":
            chosen = children(element, "Choice") or children(element, "Fallback")
            if chosen:
                yield from _shapes(chosen[0])


def _placeholder(shape: Any) -> str:
    found = descendant(shape, "ph")
    return attribute(found, "type") if found is not None else ""


def _shape(package: Package, part: str, shape: Any, made: PageBuilder) -> None:
    properties = descendant(shape, "cNvPr")
    hidden = properties is not None and properties.get("hidden") in ("1", "true")
    kind = _placeholder(shape)
    table = descendant(shape, "tbl")
    if hidden:
        made.note("hidden", _words(shape))
    elif kind in _PAGE_FURNITURE:
        return
    elif table is not None:
        made.table(_rows(table))
    elif kind in _TITLES:
        made.heading(_words(shape), 1)
    else:
        body = next(iter(children(shape, "txBody")), None)
        if body is not None:
            made.text("\n".join(filter(None, (_line(p) for p in paragraphs(body)))))
    if not hidden:
        draw(package, part, shape, made)


def _line(paragraph: Any) -> str:
    words = "".join(
        "\n" if local(e) == "br" else e.text or ""
        for e in paragraph.iter()
        if local(e) in ("t", "br") and not _spare(e)
    )
    level = next((int(attribute(e, "lvl") or 0) for e in children(paragraph, "pPr")), 0)
    return f"{'  ' * level}- {words}" if level and words.strip() else words


def _spare(element: Any) -> bool:
    """Tell whether an element is what older programs show in place of a newer one."""
    parent = element.getparent()
    while parent is not None and local(parent) not in ("txBody", "p"):
        if local(parent) == "Fallback":
            return True
        parent = parent.getparent()
    return False


def _words(element: Any) -> str:
    return " ".join(" ".join(_line(p) for p in paragraphs(element)).split())


def _rows(table: Any) -> list[list[str]]:
    """Return a table's rows; a cell merged downwards says its words in every row."""
    rows: list[list[str]] = []
    for row in children(table, "tr"):
        cells: list[str] = []
        for cell in children(row, "tc"):
            if cell.get("vMerge") in ("1", "true") and rows and len(cells) < len(rows[-1]):
                cells.append(rows[-1][len(cells)])
            else:
                cells.append("" if cell.get("hMerge") in ("1", "true") else _words(cell))
        rows.append(cells)
    return rows
