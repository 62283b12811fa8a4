"""OpenDocument files (.odt, .ods, .odp): text, tables, notes, comments and pictures in order."""

from __future__ import annotations

from typing import Any

from host_api.app.documents.content import DocumentError, Limits, Page, PageBuilder, Reading, alt_text, broken
from host_api.app.documents.readers import images
from host_api.app.documents.readers.archive import Archive, attribute, children, descendant, encrypted, local

_REPEATED = 200  # a cell or row that the file repeats more often is filling, unless it is the last


def read(archive: Archive, limits: Limits) -> Reading:
    """Return an OpenDocument file: a page for every sheet or slide, one for a text. Raises a 422."""
    manifest = archive.xml("META-INF/manifest.xml")
    if manifest is not None and descendant(manifest, "encryption-data") is not None:
        raise encrypted()
    root = archive.xml("content.xml")
    body = descendant(root, "body") if root is not None else None
    if body is None or len(body) == 0:
        raise broken("The file has no content that can be read; is it complete?")
    walker = _Walker(archive, limits)
    inner = body[0]
    kind = local(inner)
    if kind in ("spreadsheet", "presentation", "drawing"):
        for each in children(inner, "table", "page")[: limits.pages]:
            walker.made = PageBuilder(limits)
            name = attribute(each, "name")
            walker.made.heading(name, 1) if kind == "spreadsheet" else None
            walker.table(each) if kind == "spreadsheet" else walker.blocks(each)
            walker.pages.append(walker.made.page(len(walker.pages) + 1, name))
    else:
        walker.blocks(inner)
        walker.pages.append(walker.made.page(1))
    return Reading(len(walker.pages), walker.pages, notes=walker.notes)


class _Walker:
    def __init__(self, archive: Archive, limits: Limits) -> None:
        self.archive = archive
        self.limits = limits
        self.made = PageBuilder(limits)
        self.pages: list[Page] = []
        self.notes: list[str] = []
        self.left = limits.cells
        self._after: list[tuple[str, Any]] = []

    def blocks(self, element: Any) -> None:
        """Add what stands within ``element``."""
        for child in element:
            name = local(child)
            if name == "h":
                self._words(child, int(attribute(child, "outline-level") or 1))
            elif name == "p":
                self._words(child, 0)
            elif name == "table":
                self.table(child)
            elif name == "frame":
                self._frame(child)
            elif name == "notes":
                self.made.note("speaker's notes", " ".join(" ".join(_all(p)) for p in child.iter() if local(p) == "p"))
            elif name == "annotation":
                self._comment(child)
            elif name not in (
                "tracked-changes",
                "forms",
                "sequence-decls",
                "variable-decls",
                "table-of-content-source",
            ):
                self.blocks(child)

    def _words(self, element: Any, level: int) -> None:
        parts: list[str] = []
        self._collect(element, parts)
        text = "".join(parts)
        self.made.heading(text, level) if level else self.made.text(text)
        after, self._after = self._after, []
        for kind, each in after:
            if kind == "frame":
                self._frame(each)
            elif kind == "annotation":
                self._comment(each)
            else:
                body = descendant(each, "note-body")
                words = " ".join(" ".join(_all(body)).split()) if body is not None else ""
                self.made.note(attribute(each, "note-class") or "footnote", words)

    def _collect(self, element: Any, parts: list[str]) -> None:
        parts.append(element.text or "")
        for child in element:
            name = local(child)
            if name in ("frame", "annotation", "note"):
                self._after.append((name, child))
            elif name == "s":
                parts.append(" " * min(int(attribute(child, "c") or 1), 100))
            elif name in ("tab", "line-break"):
                parts.append("\t" if name == "tab" else "\n")
            elif name not in ("annotation-end", "bookmark"):
                self._collect(child, parts)
            parts.append(child.tail or "")

    def _comment(self, element: Any) -> None:
        words = " ".join("".join(_all(p)) for p in element.iter() if local(p) == "p")
        author = descendant(element, "creator")
        self.made.note("comment", f"{author.text}: {words}" if author is not None and author.text else words)

    def _frame(self, frame: Any) -> None:
        alt = next((e.text or "" for e in children(frame, "desc", "title") if e.text), "")
        for child in frame:
            name = local(child)
            if name == "image":
                content = self.archive.read(attribute(child, "href").removeprefix("./"))
                try:
                    png = images.png_of(content, self.limits) if content else None
                except DocumentError as exc:
                    self.notes.append(f"a picture was left out: {exc.message}")
                    png = None
                if png is not None:
                    self.made.picture(png, alt)
                    return
            elif name in ("text-box", "table"):
                self.blocks(child) if name == "text-box" else self.table(child)
            elif name == "object":
                self._object(attribute(child, "href").removeprefix("./"))
        if alt := alt_text(alt):
            self.made.note("picture", alt)

    def _object(self, folder: str) -> None:
        """Add an embedded chart's words and data."""
        root = self.archive.xml(f"{folder}/content.xml")
        found = descendant(root, "chart") if root is not None else None
        if found is not None:
            title = descendant(found, "title")
            self.made.note("chart", " ".join(_all(title)) if title is not None else "without a title")
            data = next((e for e in found.iter() if local(e) == "table"), None)
            if data is not None:
                self.table(data)

    def table(self, table: Any) -> None:
        """Add a table; repeated cells and rows count once where they are mere filling."""
        rows: list[list[str]] = []
        first = number = 1
        for row in (e for e in table.iter() if local(e) == "table-row"):
            cells: list[str] = []
            for cell in children(row, "table-cell", "covered-table-cell"):
                words = " ".join("".join(_all(p)) for p in children(cell, "p", "list"))
                times = int(attribute(cell, "number-columns-repeated") or 1)
                cells += [words] * min(times, _REPEATED if words else max(1, _REPEATED - len(cells)))
                for each in cell.iter():
                    if local(each) == "annotation":
                        self._comment(each)
                    elif local(each) == "frame" and local(each.getparent()) in ("table-cell", "p"):
                        self._frame(each)
            while cells and not cells[-1]:
                cells.pop()
            times = int(attribute(row, "number-rows-repeated") or 1)
            if not cells and (not rows or times > 2):
                if rows:
                    self.made.table(rows, first)
                rows, first = [], number + times
            else:
                for _ in range(min(times, _REPEATED)):
                    self.left -= len(cells)
                    if self.left > 0:
                        rows.append(cells)
            number += times
        if self.left <= 0 and f"only {self.limits.cells:,} cells were read" not in self.notes:
            self.notes.append(f"only {self.limits.cells:,} cells were read")
        width = max(map(len, rows), default=0)
        self.made.table([[*row, *[""] * (width - len(row))] for row in rows], first)


def _all(element: Any) -> list[str]:
    """Return the words within an element, without its comments."""
    found = [element.text or ""]
    for child in element:
        if local(child) not in ("annotation", "note-citation"):
            found += [" "] if local(child) in ("s", "tab", "line-break") else _all(child)
        found.append(child.tail or "")
    return found
