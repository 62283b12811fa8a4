"""PDFs, page by page, as they are shown: text in reading order, forms' values, notes, and pictures as rendered.

pdfium does the work. Pictures are not taken out of the file but rendered where they stand, since what is stored may be
turned, mirrored, cropped, masked, in any colour space or in a hundred strips; see ``pdf_figures``. The order of the
text is in ``pdf_layout``.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Any

from host_api.app.documents.content import Kind, Limits, Page, PageBuilder, Reading, broken
from host_api.app.documents.readers import pdf_figures, pdf_layout
from host_api.app.documents.readers.archive import encrypted
from host_api.app.documents.readers.pdf_geometry import Geometry
from host_api.app.documents.readers.pdf_layout import Segment

_lock = threading.RLock()  # pdfium is not thread-safe
_TOC = 5000  # outline entries looked at
_WORDS_OF = {
    1: "comment",
    3: "text",
    9: "highlighted",
    10: "underlined",
    12: "struck out",
    13: "stamp",
    5: "shape",
    6: "shape",
}
_CHECKED = (2, 3)  # checkbox, radio button
_PASSWORD, _HIDDEN = 1 << 13, 1 << 1


def read(content: bytes, limits: Limits, skip: frozenset[int] = frozenset()) -> Reading:
    """Return a PDF's pages but those in ``skip``, each read when it is asked for. Raises a 422."""
    with _lock:
        document = _opened(content)
        total = min(len(document), limits.pages)
        notes = [f"only {total:,} of {len(document):,} pages are read"] if total < len(document) else []
    return Reading(total, _pages(document, total, limits, skip, notes), notes)


def _opened(content: bytes) -> Any:
    import pypdfium2

    start = max(0, content[:1024].find(b"%PDF-"))
    for data in (content, content[start:]) if start else (content,):
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as exc:
            if "assword" in str(exc) or getattr(exc, "err_code", 0) == 4:
                raise encrypted() from exc
            problem = exc
        else:
            with contextlib.suppress(pypdfium2.PdfiumError):
                document.init_forms()
            return document
    raise broken(f"The PDF can't be opened ({str(problem).rstrip('.')}); is it complete?") from problem


def _pages(document: Any, total: int, limits: Limits, skip: frozenset[int], notes: list[str]) -> Iterator[Page]:
    with _lock:
        outline = _outline(document)
    path: list[tuple[int, str]] = []
    try:
        for number in range(1, total + 1):
            entries = outline.get(number, [])
            if number not in skip:
                with _lock:
                    yield _page(document, number, limits, entries, tuple(t for _, t in path), notes)
            for level, title, _ in entries:
                path = [*(p for p in path if p[0] < level), (level, title)]
    finally:
        with _lock:
            document.close()


def _outline(document: Any) -> dict[int, list[tuple[int, str, float | None]]]:
    """Return each page's entries in the outline: level, title, and the height it points to, if it says one."""
    found: dict[int, list[tuple[int, str, float | None]]] = {}
    with contextlib.suppress(Exception):  # outlines are damaged in many ways, and the text is there without them
        for count, mark in enumerate(document.get_toc(max_depth=8)):
            destination = mark.get_dest()
            page = destination.get_index() if destination is not None else None
            if page is not None:
                view = destination.get_view()[1]
                height = view[1] if len(view) > 1 else view[0] if len(view) == 1 else None
                title = " ".join(mark.get_title().split())
                found.setdefault(page + 1, []).append((mark.level + 1, title, height))
            if count > _TOC:
                break
    return found


def _page(
    document: Any,
    number: int,
    limits: Limits,
    outline: list[tuple[int, str, float | None]],
    path: tuple[str, ...],
    notes: list[str],
) -> Page:
    import pypdfium2

    made = PageBuilder(limits)
    try:
        page = document[number - 1]
    except pypdfium2.PdfiumError as exc:
        notes.append(f"page {number} can't be read ({exc})")
        return made.page(number)
    with contextlib.closing(page):
        geometry = Geometry.of(page)
        with contextlib.closing(page.get_textpage()) as textpage:
            segments = pdf_layout.segments(textpage, geometry)
        fields, remarks = _annotations(document, page, geometry, "".join(s.text for s in segments))
        segments += fields
        figures = pdf_figures.figures(page, geometry, segments, limits)
        places = [Segment("", f.box, figure=i) for i, f in enumerate(figures)]
        for block in pdf_layout.blocks([*segments, *places], geometry, [title for _, title, _ in outline]):
            if block.figure is not None:
                made.picture(figures[block.figure].png)
            elif block.kind == Kind.HEADING:
                level = next((level for level, title, _ in outline if title == block.text), block.level)
                made.heading(block.text, level)
            elif block.kind == Kind.TABLE:
                made.table(block.rows)
            else:
                made.text(block.text)
        for what, words in remarks:
            made.note(what, words)
    if number == 1:
        for name in _attachments(document):
            made.note("attached", name)
    label = ""
    with contextlib.suppress(Exception):
        label = document.get_page_label(number - 1)
    if made.left_out:
        notes.append(f"page {number}: {made.left_out} more pictures were left out")
    return Page(number, tuple(made.blocks), tuple(made.pictures), label if label != str(number) else "", path)


def _attachments(document: Any) -> list[str]:
    names: list[str] = []
    with contextlib.suppress(Exception):  # a damaged list of names
        for i in range(min(document.count_attachments(), 100)):
            names.append(document.get_attachment(i).get_name())
    return names


def _annotations(
    document: Any, page: Any, geometry: Geometry, text: str
) -> tuple[list[Segment], list[tuple[str, str]]]:
    """Return the form fields' values where they stand, and comments and links as notes."""
    from pypdfium2 import raw

    fields: list[Segment] = []
    remarks: list[tuple[str, str]] = []
    for i in range(min(raw.FPDFPage_GetAnnotCount(page), 5000)):
        annotation = raw.FPDFPage_GetAnnot(page, i)
        if not annotation:
            continue
        kind = raw.FPDFAnnot_GetSubtype(annotation)
        hidden = bool(raw.FPDFAnnot_GetFlags(annotation) & _HIDDEN)
        if kind == raw.FPDF_ANNOT_WIDGET and document.formenv:
            words = _field(document, annotation)
            box = raw.FS_RECTF()
            if words and raw.FPDFAnnot_GetRect(annotation, box):
                place = geometry.box(box.left, box.bottom, box.right, box.top)
                if hidden:
                    remarks.append(("hidden field", words))
                else:
                    fields.append(Segment(words, place, size=place[3] - place[1]))
        elif kind == raw.FPDF_ANNOT_LINK:
            address = _address(document, annotation)
            if address and address not in text and ("link", address) not in remarks:
                remarks.append(("link", address))
        elif kind in _WORDS_OF:
            words = _string(annotation, b"Contents")
            if words:
                author = _string(annotation, b"T")
                what = f"hidden {_WORDS_OF[kind]}" if hidden else _WORDS_OF[kind]
                remarks.append((what, f"{author}: {words}" if author else words))
        raw.FPDFPage_CloseAnnot(annotation)
    return fields, remarks


def _field(document: Any, annotation: Any) -> str:
    """Return what a form field says; a password's field says nothing."""
    from pypdfium2 import raw

    kind = raw.FPDFAnnot_GetFormFieldType(document.formenv, annotation)
    flags = raw.FPDFAnnot_GetFormFieldFlags(document.formenv, annotation)
    if kind == raw.FPDF_FORMFIELD_TEXTFIELD and flags & _PASSWORD:
        return ""
    if kind in _CHECKED:
        name = _wide(raw.FPDFAnnot_GetFormFieldAlternateName, document.formenv, annotation)
        name = name or _wide(raw.FPDFAnnot_GetFormFieldName, document.formenv, annotation)
        mark = "[x]" if raw.FPDFAnnot_IsChecked(document.formenv, annotation) else "[ ]"
        return f"{mark} {name}"
    if kind == raw.FPDF_FORMFIELD_PUSHBUTTON:
        return ""
    return _wide(raw.FPDFAnnot_GetFormFieldValue, document.formenv, annotation)


def _address(document: Any, annotation: Any) -> str:
    from pypdfium2 import raw

    link = raw.FPDFAnnot_GetLink(annotation)
    action = raw.FPDFLink_GetAction(link) if link else None
    if not action or raw.FPDFAction_GetType(action) != raw.PDFACTION_URI:
        return ""
    size = raw.FPDFAction_GetURIPath(document, action, None, 0)
    buffer = ctypes.create_string_buffer(max(1, min(size, 4096)))
    raw.FPDFAction_GetURIPath(document, action, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def _string(annotation: Any, key: bytes) -> str:
    from pypdfium2 import raw

    return _wide(raw.FPDFAnnot_GetStringValue, annotation, key)


def _wide(function: Any, *arguments: Any) -> str:
    """Return what one of pdfium's functions writes as UTF-16 into a buffer."""
    size = min(function(*arguments, None, 0), 2_000_000)
    if size <= 2:
        return ""
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    function(*arguments, buffer, size)
    words = bytes(buffer)[:size].decode("utf-16-le", "replace").rstrip("\0")
    return " ".join(words.split())
