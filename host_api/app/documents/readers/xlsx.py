"""Excel files: a page for every sheet, read cell by cell, so that a million rows take no more memory than is kept.

Only cells that exist are looked at: one cell in the last column of the last row is one cell, not seventeen billion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from host_api.app.documents.content import Limits, Page, PageBuilder, Reading, broken, unsupported
from host_api.app.documents.readers import formats
from host_api.app.documents.readers.archive import Archive, children, descendant, local
from host_api.app.documents.readers.ooxml import Package, chart, draw, paragraphs

_GAP = 2  # empty rows between tables of one sheet
_REFERENCE = re.compile(r"\$?([A-Z]{1,3})\$?(\d{1,7})")


@dataclass
class _Sheet:
    """What was found of a sheet: values by row and column, from 1."""

    rows: dict[int, dict[int, str]] = field(default_factory=dict)
    hidden_rows: set[int] = field(default_factory=set)
    hidden_columns: set[int] = field(default_factory=set)
    merged: list[tuple[int, int, int, int]] = field(default_factory=list)
    cells: int = 0
    cut: int = 0  # the row at which the limit ended it


def read(archive: Archive, limits: Limits) -> Reading:
    """Return a workbook's sheets. Raises a 415 or 422."""
    package = Package(archive)
    if package.main.endswith(".bin"):
        raise unsupported("This is a binary workbook (.xlsb): save it as .xlsx.")
    root = archive.xml(package.main)
    if root is None:
        raise broken("The workbook can't be read; is it complete?")
    return _Book(package, root, limits).read()


class _Book:
    def __init__(self, package: Package, root: Any, limits: Limits) -> None:
        self.package = package
        self.root = root
        self.limits = limits
        self.left = limits.cells
        self.strings = self._strings()
        self.formats = self._formats()
        properties = descendant(root, "workbookPr")
        self.since_1904 = properties is not None and properties.get("date1904") in ("1", "true")

    def read(self) -> Reading:
        pages: list[Page] = []
        known = self.package.relations(self.package.main)
        sheets = descendant(self.root, "sheets")
        for each in children(sheets, "sheet") if sheets is not None else ():
            relation = known.get(next((v for k, v in each.attrib.items() if k.endswith("}id")), ""))
            if relation is None or len(pages) >= self.limits.pages:
                continue
            hidden = each.get("state", "visible") != "visible"
            pages.append(self._page(relation.target, each.get("name", ""), len(pages) + 1, hidden=hidden))
        return Reading(len(pages), pages, notes=self.package.notes)

    def _page(self, part: str, name: str, number: int, *, hidden: bool) -> Page:
        made = PageBuilder(self.limits)
        made.heading(name, 1)
        if hidden:
            made.note("hidden", "this sheet isn't shown")
        sheet = self._sheet(part)
        if sheet.cut:
            self.package.notes.append(
                f"{name}: read up to row {sheet.cut - 1:,}; a file may have {self.limits.cells:,} cells"
            )
        _add(sheet, made)
        for reference, words in self._comments(part):
            made.note(f"comment on {reference}", words)
        for drawing in self.package.related(part, "drawing"):
            self._drawing(drawing, made)
        return made.page(number, name)

    def _strings(self) -> list[str]:
        found: list[str] = []
        for part in self.package.related(self.package.main, "sharedStrings"):
            size = 0
            for element in _each(self.package.archive, part, "si"):
                words = _text(element)
                size += len(words)
                found.append(words if size < self.limits.characters * 4 else "")
        return found

    def _formats(self) -> list[str]:
        """Return the number format of each cell style, by its position."""
        root = next((self.package.archive.xml(p) for p in self.package.related(self.package.main, "styles")), None)
        if root is None:
            return []
        own = {int(e.get("numFmtId", -1)): e.get("formatCode", "") for e in root.iter() if local(e) == "numFmt"}
        styles = next((e for e in root.iter() if local(e) == "cellXfs"), None)
        ids = [int(e.get("numFmtId", 0)) for e in children(styles, "xf")] if styles is not None else []
        return [own.get(i) or formats.BUILT_IN.get(i, "General") for i in ids]

    def _sheet(self, part: str) -> _Sheet:
        sheet = _Sheet()
        row = column = 0
        for element in _each(self.package.archive, part, "row", "c", "col", "mergeCell", starts=("row",)):
            name = local(element)
            if name == "row":
                row = int(element.get("r") or row + 1)
                column = 0
                if element.get("hidden") in ("1", "true"):
                    sheet.hidden_rows.add(row)
            elif name == "c":
                place = _REFERENCE.match(element.get("r", ""))
                row, column = (int(place[2]), _column(place[1])) if place else (row, column + 1)
                words = self._value(element)
                if words:
                    if self.left <= 0:
                        sheet.cut = row
                        break
                    self.left -= 1
                    sheet.rows.setdefault(row, {})[column] = words
            elif name == "col" and element.get("hidden") in ("1", "true"):
                sheet.hidden_columns |= set(
                    range(int(element.get("min", 1)), min(int(element.get("max", 1)), 16384) + 1)
                )
            elif name == "mergeCell":
                sheet.merged.extend(_area(element.get("ref", "")))
        return sheet

    def _value(self, cell: Any) -> str:
        """Return a cell as the sheet shows it; a formula that was never calculated as the formula."""
        kind = cell.get("t", "n")
        given = {local(e): e for e in cell}
        if kind == "inlineStr":
            return _text(given["is"]) if "is" in given else ""
        value = (given["v"].text or "") if "v" in given else ""
        if not value:
            formula = given["f"].text if "f" in given else None
            return f"={formula}" if formula else ""
        if kind == "s":
            return self.strings[int(value)] if value.isdecimal() and int(value) < len(self.strings) else ""
        if kind == "b":
            return "TRUE" if value == "1" else "FALSE"
        if kind in ("str", "e", "d"):
            return value
        try:
            number = float(value)
        except ValueError:
            return value
        style = cell.get("s", "0")
        code = self.formats[int(style)] if style.isdecimal() and int(style) < len(self.formats) else "General"
        return formats.plain(number) if code == "General" else formats.shown(number, code, since_1904=self.since_1904)

    def _comments(self, part: str) -> Iterator[tuple[str, str]]:
        threaded = list(self.package.related(part, "threadedComment"))
        for target in threaded or self.package.related(part, "comments"):
            root = self.package.archive.xml(target)
            for each in root.iter() if root is not None else ():
                if local(each) in ("comment", "threadedComment"):
                    yield each.get("ref", "?"), _text(each)

    def _drawing(self, part: str, made: PageBuilder) -> None:
        root = self.package.archive.xml(part)
        for anchor in root if root is not None else ():
            draw(self.package, part, anchor, made)
            for shape in (e for e in anchor.iter() if local(e) == "txBody"):
                words = ["".join(e.text or "" for e in p.iter() if local(e) == "t") for p in paragraphs(shape)]
                made.text("\n".join(words))
        if root is not None and local(root) == "chartSpace":
            chart(root, made)


def _each(archive: Archive, part: str, *names: str, starts: tuple[str, ...] = ()) -> Iterator[Any]:
    """Yield a part's elements with these names as they are parsed, those in ``starts`` at their beginning."""
    from lxml import etree

    if part not in archive:
        return
    tags = [f"{{*}}{n}" for n in names]
    try:
        with archive.open(part) as file:
            events = etree.iterparse(
                file, events=("start", "end"), tag=tags, resolve_entities=False, no_network=True, huge_tree=True
            )
            for event, element in events:
                if (event == "start") == (local(element) in starts):
                    yield element
                if event == "end":
                    element.clear(keep_tail=False)
                    if local(element) in ("row", "si"):
                        while element.getprevious() is not None:
                            del element.getparent()[0]
    except (etree.XMLSyntaxError, OSError, ValueError, EOFError):
        return  # what was read before the damage is kept


def _text(element: Any) -> str:
    """Return the words of a rich text, without the readings that stand above Japanese ones."""
    parts = [e.text or "" for e in element.iter() if local(e) in ("t", "text") and local(e.getparent()) != "rPh"]
    return "".join(parts)


def _column(letters: str) -> int:
    number = 0
    for c in letters:
        number = number * 26 + ord(c) - 64
    return number


def _area(reference: str) -> Iterator[tuple[int, int, int, int]]:
    found = _REFERENCE.findall(reference)
    if len(found) == 2:
        (left, top), (right, bottom) = found
        yield int(top), _column(left), int(bottom), _column(right)


def _add(sheet: _Sheet, made: PageBuilder) -> None:
    """Add a sheet's tables: rows that stand together, over the columns that have anything in them."""
    for top, left, bottom, _ in sheet.merged:
        words = sheet.rows.get(top, {}).get(left, "")
        for number in range(top + 1, min(bottom, top + 10_000) + 1) if words else ():
            if number in sheet.rows:  # what spans rows is said in each of them
                sheet.rows[number].setdefault(left, words)
    shown = [(n, sheet.rows[n]) for n in sorted(sheet.rows) if n not in sheet.hidden_rows]
    hidden = [(n, sheet.rows[n]) for n in sorted(sheet.rows) if n in sheet.hidden_rows]
    for group in _groups(shown):
        columns = sorted({c for _, row in group for c in row if c not in sheet.hidden_columns})
        filled = sum(len(row) for _, row in group)
        numbers = range(group[0][0], group[-1][0] + 1)
        values = dict(group)
        if len(columns) * len(numbers) > 8 * filled + 1000:  # scattered cells are no table
            for number, row in group:
                made.table([[row[c] for c in sorted(row)]], number)
            continue
        made.table(([values.get(n, {}).get(c, "") for c in columns] for n in numbers), group[0][0])
        kept = [", ".join(row[c] for c in sorted(row) if c in sheet.hidden_columns) for _, row in group]
        if any(kept):
            made.note("hidden columns", "; ".join(filter(None, kept))[:20_000])
    if hidden:
        words = "; ".join(", ".join(row[c] for c in sorted(row)) for _, row in hidden)
        made.note("hidden rows", words[:20_000])


def _groups(rows: list[tuple[int, dict[int, str]]]) -> Iterator[list[tuple[int, dict[int, str]]]]:
    group: list[tuple[int, dict[int, str]]] = []
    for number, row in rows:
        if group and number - group[-1][0] > _GAP:
            yield group
            group = []
        group.append((number, row))
    if group:
        yield group
