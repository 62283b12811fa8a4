"""Word, PowerPoint and Excel as pages of text: their XML read with the standard library. In the child alone.

This is the words of a file for a model to read; the host service's readers, which serve search, know far more of a
file (charts, notes in order, pictures with their crop).
"""

from __future__ import annotations

import datetime
import io
import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree import ElementTree

from sidecar.text.files.pages import KINDS, FileRead, Page, ReadError, Wanted

MOST = 300_000_000
"""Bytes that an archive may say it holds."""
_DATES = frozenset([*range(14, 23), *range(27, 37), 45, 46, 47, *range(50, 59)])
_DATE_CODE = re.compile(r"[ymdhs]", re.IGNORECASE)
_NO_CODE = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]')
_CELL = re.compile(r"([A-Z]+)(\d+)")


class _Parts:
    """The parts of an Office file."""

    def __init__(self, data: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as exc:
            raise ReadError(f"the file is damaged ({exc}); is it complete?") from exc
        infos = self._zip.infolist()
        if any(info.flag_bits & 1 for info in infos):
            raise ReadError("it is encrypted: open it, remove its password, and send it again")
        if sum(info.file_size for info in infos) > MOST or len(infos) > 20_000:
            raise ReadError("it holds too much when unpacked; send less of it")
        self.names = {info.filename for info in infos}

    def xml(self, name: str) -> Any:
        """Return a part's root element, an empty one where it is missing."""
        if name not in self.names:
            return ElementTree.Element("none")
        try:
            return ElementTree.fromstring(self._zip.read(name))
        except (ElementTree.ParseError, zipfile.BadZipFile, EOFError, OSError) as exc:
            raise ReadError(f"its part {name} is damaged ({exc})") from exc

    def related(self, part: str) -> dict[str, str]:
        """Return the parts that ``part`` points to, by id."""
        folder, _, name = part.rpartition("/")
        root = self.xml(f"{folder}/_rels/{name}.rels")
        return {
            one.get("Id", ""): one.get("Target", "").lstrip("/")
            if one.get("Target", "").startswith("/")
            else posixpath.normpath(posixpath.join(folder, one.get("Target", "")))
            for one in root
            if one.get("TargetMode") != "External"
        }


def read(data: bytes, wanted: Wanted) -> FileRead:
    """Return the pages of an Office file. Raises ReadError."""
    parts = _Parts(data)
    if "word/document.xml" in parts.names:
        pages: Iterable[tuple[str, str]] = _word(parts)
    elif "ppt/presentation.xml" in parts.names:
        pages = _slides(parts)
    elif "xl/workbook.xml" in parts.names:
        pages = _sheets(parts)
    else:
        raise ReadError(f"this archive is no Office file that is read here: send {KINDS}")
    out: list[Page] = []
    notes: list[str] = []
    left = wanted.characters
    total = 0
    for total, (name, text) in enumerate(pages, 1):
        if left <= 0 or (len(text) > left and out):
            left = 0
            notes = notes or [f"{name} and what follows are left out: the file is longer than its share of the context"]
            continue
        if len(text) > left:
            notes.append(f"{name or 'the text'} is cut")
        out.append(Page(number=total, name=name, text=text[:left]))
        left -= len(text)
    return FileRead(pages=tuple(out), total=total, notes=tuple(notes))


def _local(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _attribute(element: Any, name: str) -> str:
    return next((v for k, v in element.attrib.items() if k.rpartition("}")[2] == name), "")


# --- Word ---------------------------------------------------------------------------------------------------
def _word(parts: _Parts) -> Iterator[tuple[str, str]]:
    """Yield pages as Word broke them when it last saved the file; a file without breaks is one."""
    body = next((e for e in parts.xml("word/document.xml") if _local(e) == "body"), ElementTree.Element("none"))
    pages: list[list[str]] = [[]]
    for block in body:
        lines = (
            _paragraph(block) if _local(block) == "p" else _table(block) if _local(block) == "tbl" else _others(block)
        )
        for line in lines:
            first, *more = line.split("\f")
            pages[-1].append(first)
            for rest in more:
                pages.append([rest])
    for extra, title in (("footnotes", "Footnotes"), ("comments", "Comments")):
        words = [w for w in (" ".join(_paragraph(p)) for p in parts.xml(f"word/{extra}.xml")) if w.strip()]
        if words:
            pages[-1] += [f"{title}:", *words]
    texts = ["\n".join(page).strip() for page in pages]
    for number, text in enumerate(texts, 1):
        yield (f"page {number}" if len(texts) > 1 else "", text)


def _others(block: Any) -> list[str]:
    return [line for p in block.iter() if _local(p) == "p" for line in _paragraph(p)]


def _paragraph(element: Any) -> list[str]:
    """Return a paragraph's words, a form feed where a page ends; what was deleted is left out."""
    out: list[str] = []
    for one in element.iter():
        name = _local(one)
        if name == "t":
            out.append(one.text or "")
        elif name == "tab":
            out.append("\t")
        elif name == "lastRenderedPageBreak" or (name == "br" and _attribute(one, "type") == "page"):
            out.append("\f")
        elif name in ("br", "cr"):
            out.append("\n")
    return [re.sub("\f+", "\f", "".join(out))]


def _table(element: Any) -> list[str]:
    rows = []
    for row in (e for e in element.iter() if _local(e) == "tr"):
        cells = [" ".join("".join(_paragraph(c)).split()) for c in row if _local(c) == "tc"]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


# --- PowerPoint ---------------------------------------------------------------------------------------------
def _slides(parts: _Parts) -> Iterator[tuple[str, str]]:
    links = parts.related("ppt/presentation.xml")
    listed = [e for e in parts.xml("ppt/presentation.xml").iter() if _local(e) == "sldId"]
    for number, entry in enumerate(listed, 1):
        target = links.get(next((v for k, v in entry.attrib.items() if k.endswith("}id")), ""), "")
        lines = _drawn(parts.xml(target))
        notes = [n for n in parts.related(target).values() if "notesSlide" in n] if target else []
        for note in notes:
            lines += ["Notes:", *(line for line in _drawn(parts.xml(note)) if line != str(number))]
        yield f"slide {number}", "\n".join(lines)


def _drawn(root: Any) -> list[str]:
    out = []
    for paragraph in (e for e in root.iter() if _local(e) == "p"):
        words = "".join(
            "\n" if _local(e) == "br" else e.text or "" for e in paragraph.iter() if _local(e) in ("t", "br")
        )
        if words.strip():
            out.append(words.strip())
    return out


# --- Excel --------------------------------------------------------------------------------------------------
def _sheets(parts: _Parts) -> Iterator[tuple[str, str]]:
    shared = [
        "".join(t.text or "" for t in item.iter() if _local(t) == "t")
        for item in parts.xml("xl/sharedStrings.xml")
        if _local(item) == "si"
    ]
    dates = _date_styles(parts.xml("xl/styles.xml"))
    book = parts.xml("xl/workbook.xml")
    since_1904 = any(_local(e) == "workbookPr" and e.get("date1904") in ("1", "true") for e in book)
    links = parts.related("xl/workbook.xml")
    for sheet in (e for e in book.iter() if _local(e) == "sheet"):
        target = links.get(next((v for k, v in sheet.attrib.items() if k.endswith("}id")), ""), "")
        rows = [row for row in _rows(parts.xml(target), shared, dates, since_1904) if any(row)]
        hidden = " (hidden)" if sheet.get("state", "visible") != "visible" else ""
        yield f"sheet {sheet.get('name', '')}{hidden}", "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _date_styles(root: Any) -> set[int]:
    """Return the styles of cells whose numbers are days."""
    own = {
        int(e.get("numFmtId", 0))
        for e in root.iter()
        if _local(e) == "numFmt" and _DATE_CODE.search(_NO_CODE.sub("", e.get("formatCode", "")))
    }
    cells = next((e for e in root if _local(e) == "cellXfs"), ())
    return {i for i, e in enumerate(cells) if int(e.get("numFmtId", 0)) in _DATES | own}


def _rows(root: Any, shared: list[str], dates: set[int], since_1904: bool) -> Iterator[list[str]]:
    for row in (e for e in root.iter() if _local(e) == "row"):
        cells: list[str] = []
        for cell in (e for e in row if _local(e) == "c"):
            place = _CELL.match(cell.get("r", ""))
            column = _column(place[1]) if place else len(cells)
            cells += [""] * (min(column, 1000) - len(cells))
            cells.append(_value(cell, shared, dates, since_1904))
        yield cells


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1


def _value(cell: Any, shared: list[str], dates: set[int], since_1904: bool) -> str:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return " ".join("".join(t.text or "" for t in cell.iter() if _local(t) == "t").split())
    given = next((e.text or "" for e in cell if _local(e) == "v"), "")
    if kind == "s":
        index = int(given) if given.isdigit() else -1
        return " ".join(shared[index].split()) if 0 <= index < len(shared) else ""
    if kind == "b":
        return "TRUE" if given == "1" else "FALSE"
    if kind != "n" or not given:
        return " ".join(given.split())
    try:
        number = float(given)
    except ValueError:
        return given
    if int(cell.get("s", 0) or 0) in dates:
        return _day(number, since_1904)
    return f"{number:.15g}"


def _day(number: float, since_1904: bool) -> str:
    """Return a day as Excel counts them (with a 29 February 1900 that never was), the year first."""
    if not 0 <= number < 2_958_466:
        return f"{number:.15g}"
    if number < 1 and not since_1904:
        seconds = round(number * 86400)
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}" + (f":{seconds % 60:02d}" if seconds % 60 else "")
    start = datetime.datetime(1904, 1, 1) if since_1904 else datetime.datetime(1899, 12, 30 if number >= 61 else 31)
    when = start + datetime.timedelta(seconds=round(number * 86400))
    return when.strftime("%Y-%m-%d" if number == int(number) else "%Y-%m-%d %H:%M")
