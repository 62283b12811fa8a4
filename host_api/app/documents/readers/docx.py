"""Word files: paragraphs, tables and pictures in order; notes where they are referred to; hidden things marked.

Word keeps no pages, but it notes where they ended when it last showed the file. Those marks and the breaks that the
author set make the pages here; a file without them is one page.
"""

from __future__ import annotations

import re
from typing import Any

from host_api.app.documents.content import Limits, Page, PageBuilder, Reading, broken
from host_api.app.documents.readers.archive import Archive, attribute, children, descendant, local
from host_api.app.documents.readers.ooxml import Package, draw

_NOTES = {"footnoteReference": "footnote", "endnoteReference": "endnote", "commentReference": "comment"}
_OFF = ("0", "false", "off", "none")
_THROUGH = re.compile(
    "r|ins|moveTo|hyperlink|smartTag|sdt|sdtContent|fldSimple|customXml|ruby|rubyBase|dir|bdo|oMath|oMathPara|f|num|den|e"
    "|sSup|sSub|sup|sub|rad|deg|d|nary|m|mr|func|fName|limLow|limUpp|lim|acc|bar|box|groupChr|sSubSup|sPre|eqArr"
)


def read(archive: Archive, limits: Limits) -> Reading:
    """Return a Word file's pages. Raises a 422."""
    package = Package(archive)
    root = archive.xml(package.main)
    body = descendant(root, "body") if root is not None else None
    if body is None:
        raise broken("The Word file has no text that can be read; is it complete?")
    return _Walker(package, limits).walk_body(body)


def _on(properties: Any, name: str) -> bool:
    """Tell whether a property is set and not set to false."""
    found = next(iter(children(properties, name)), None) if properties is not None else None
    return found is not None and attribute(found, "val") not in _OFF


class _Walker:
    def __init__(self, package: Package, limits: Limits) -> None:
        self.package = package
        self.limits = limits
        self.part = package.main
        self.pages: list[Page] = []
        self.made = PageBuilder(limits)
        self.levels = self._heading_levels()
        self.notes = {kind: self._notes(kind) for kind in ("footnote", "endnote", "comment")}  # of a kind by their ids
        self._line: list[str] = []
        self._after: list[tuple[str, str]] = []  # notes that belong to the paragraph
        self._drawings: list[Any] = []
        self._in_table = 0

    def walk_body(self, body: Any) -> Reading:
        self._around("header")
        self._blocks(body)
        self._around("footer")
        if self.made.blocks or not self.pages:
            self._end_page(last=True)
        return Reading(len(self.pages), self.pages, notes=self.package.notes)

    def _end_page(self, *, last: bool = False) -> None:
        if (not self.made.blocks and not last) or len(self.pages) >= self.limits.pages:
            return
        self.pages.append(self.made.page(len(self.pages) + 1))
        self.made = PageBuilder(self.limits)

    def _heading_levels(self) -> dict[str, int]:
        """Return the outline level of each style that has one, its own or its ancestor's."""
        root = next((self.package.archive.xml(p) for p in self.package.related(self.part, "styles")), None)
        levels: dict[str, int] = {}
        bases: dict[str, str] = {}
        for style in children(root, "style") if root is not None else ():
            key = attribute(style, "styleId")
            name = next((attribute(e, "val") for e in children(style, "name")), "").lower()
            found = re.fullmatch(r"heading (\d)", name)
            outline = descendant(style, "outlineLvl")
            if found:
                levels[key] = int(found[1])
            elif name in ("title", "subtitle"):
                levels[key] = 1 if name == "title" else 2
            elif outline is not None and attribute(outline, "val").isdecimal() and int(attribute(outline, "val")) < 9:
                levels[key] = int(attribute(outline, "val")) + 1
            bases[key] = next((attribute(e, "val") for e in children(style, "basedOn")), "")
        for key in bases:
            ancestor, steps = key, 0
            while ancestor and ancestor not in levels and steps < 20:
                ancestor, steps = bases.get(ancestor, ""), steps + 1
            if ancestor in levels:
                levels.setdefault(key, levels[ancestor])
        return levels

    def _notes(self, kind: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for part in self.package.related(self.part, f"{kind}s"):
            root = self.package.archive.xml(part)
            for each in children(root, kind) if root is not None else ():
                if attribute(each, "type") not in ("separator", "continuationSeparator", "continuationNotice"):
                    author = attribute(each, "author")
                    words = _plain(each)
                    found[attribute(each, "id")] = f"{author}: {words}" if author and words else words
        return found

    def _around(self, kind: str) -> None:
        """Add the headers or footers of all sections, each once."""
        seen: set[str] = set()
        for part in self.package.related(self.package.main, kind):
            root = self.package.archive.xml(part)
            if root is None:
                continue
            words = _plain(root)
            if words and words not in seen:
                seen.add(words)
                self.made.note(kind, words)
            before, self.part = self.part, part
            draw(self.package, part, root, self.made)
            self.part = before

    def _blocks(self, element: Any) -> None:
        for child in element:
            name = local(child)
            if name == "p":
                self._paragraph(child)
            elif name == "tbl":
                self._table(child)
            elif name == "AlternateContent":
                self._blocks(_alternative(child))
            elif name in ("sdt", "sdtContent", "customXml", "ins", "moveTo", "txbxContent"):
                self._blocks(child)

    def _paragraph(self, paragraph: Any) -> None:
        properties = next(iter(children(paragraph, "pPr")), None)
        if _on(properties, "pageBreakBefore") and not self._in_table:
            self._end_page()
        level = self._level(properties)
        is_list = properties is not None and descendant(properties, "numPr") is not None and not level
        outer, self._line = self._line, ["- "] if is_list else []
        self._runs(paragraph)
        self._flush(level)
        self._line = outer
        section = descendant(properties, "sectPr") if properties is not None else None
        if section is not None and not self._in_table:
            how = descendant(section, "type")
            if how is None or attribute(how, "val") != "continuous":
                self._end_page()

    def _level(self, properties: Any) -> int:
        if properties is None:
            return 0
        outline = next(iter(children(properties, "outlineLvl")), None)
        if outline is not None and attribute(outline, "val").isdecimal() and int(attribute(outline, "val")) < 9:
            return int(attribute(outline, "val")) + 1
        style = next(iter(children(properties, "pStyle")), None)
        return self.levels.get(attribute(style, "val"), 0) if style is not None else 0

    def _flush(self, level: int = 0) -> None:
        words = "".join(self._line)
        if words.strip() not in ("", "-"):
            self.made.heading(words, level) if level else self.made.text(words)
        self._line = []
        after, self._after = self._after, []
        for what, note in after:
            self.made.note(what, note)
        drawings, self._drawings = self._drawings, []
        for drawing in drawings:
            draw(self.package, self.part, drawing, self.made)
            for box in _boxes(drawing):
                self._blocks(box)

    def _runs(self, element: Any) -> None:
        """Collect the words of a paragraph."""
        for child in element:
            name = local(child)
            if name == "t":
                self._line.append(child.text or "")
            elif name == "r":
                self._run(child)
            elif name in ("tab", "ptab"):
                self._line.append("\t")
            elif name in ("br", "cr"):
                if attribute(child, "type") == "page":
                    self._page_break()
                self._line.append("\n")
            elif name == "lastRenderedPageBreak":
                self._page_break()
            elif name in ("noBreakHyphen", "sym"):
                self._line.append("-" if name == "noBreakHyphen" else _symbol(child))
            elif name in _NOTES:
                kind = _NOTES[name]
                if words := self.notes[kind].get(attribute(child, "id")):
                    self._after.append((kind, words))
            elif name in ("drawing", "pict", "object"):
                self._drawings.append(child)
            elif name == "AlternateContent":
                self._runs(_alternative(child))
            elif _THROUGH.fullmatch(name):
                self._runs(child)

    def _run(self, run: Any) -> None:
        properties = next(iter(children(run, "rPr")), None)
        if not (_on(properties, "vanish") or _on(properties, "webHidden")):
            self._runs(run)
            return
        before, self._line = self._line, []
        self._runs(run)
        words, self._line = "".join(self._line).strip(), before
        if words:
            self._after.append(("hidden", words))

    def _page_break(self) -> None:
        if self._in_table:
            return
        self._flush()
        self._end_page()

    def _table(self, table: Any) -> None:
        rows = list(_rows(table))
        cells = [list(_cells(row)) for row in rows]
        if len(cells) == 1 and len(cells[0]) == 1:  # a frame, not a table
            self._blocks(cells[0][0])
            return
        self._in_table += 1
        texts: list[list[str]] = []
        above: dict[int, str] = {}
        for row in cells:
            line: list[str] = []
            for cell in row:
                properties = next(iter(children(cell, "tcPr")), None)
                span = next(iter(children(properties, "gridSpan")), None) if properties is not None else None
                merged = next(iter(children(properties, "vMerge")), None) if properties is not None else None
                wide = min(int(attribute(span, "val") or 1), 60) if span is not None else 1
                if merged is not None and attribute(merged, "val") != "restart":
                    words = above.get(len(line), "")
                else:
                    words = self._cell(cell)
                above[len(line)] = words
                line += [words, *[""] * (wide - 1)]
            texts.append(line)
        self._in_table -= 1
        self.made.table(texts)
        if not self._in_table:
            self._flush()

    def _cell(self, cell: Any) -> str:
        """Return a cell's words; its pictures and notes come after the table."""
        outer, self._line = self._line, []
        for paragraph in (e for e in cell.iter() if local(e) == "p" and not _within(e, "txbxContent", cell)):
            self._runs(paragraph)
            self._line.append(" ")
        words, self._line = "".join(self._line), outer
        return " ".join(words.split())


def _plain(element: Any) -> str:
    """Return the words of a note, header or comment, its paragraphs parted by spaces."""
    lines = []
    for paragraph in (e for e in element.iter() if local(e) == "p"):
        lines.append(
            "".join(
                e.text or "" if local(e) == "t" else " " for e in paragraph.iter() if local(e) in ("t", "tab", "br")
            )
        )
    return " ".join(" ".join(lines).split())


def _alternative(element: Any) -> Any:
    """Return the first of the alternatives that a writer offers, the newest."""
    found = children(element, "Choice") or children(element, "Fallback")
    return found[0] if found else ()


def _boxes(drawing: Any) -> list[Any]:
    return [e for e in drawing.iter() if local(e) == "txbxContent" and not _within(e, "Fallback", drawing)]


def _within(element: Any, name: str, top: Any) -> bool:
    parent = element.getparent()
    while parent is not None and parent is not top:
        if local(parent) == name:
            return True
        parent = parent.getparent()
    return False


def _rows(table: Any) -> Any:
    for child in table:
        if local(child) == "tr":
            yield child
        elif local(child) in ("sdt", "sdtContent", "ins", "customXml"):
            yield from _rows(child)


def _cells(row: Any) -> Any:
    for child in row:
        if local(child) == "tc":
            yield child
        elif local(child) in ("sdt", "sdtContent", "ins", "customXml"):
            yield from _cells(child)


def _symbol(element: Any) -> str:
    try:
        code = int(attribute(element, "char"), 16)
    except ValueError:
        return ""
    return "•" if 0xF000 <= code <= 0xF0FF else chr(code)  # a picture font's own place
