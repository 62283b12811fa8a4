"""Pages, their text and their pictures, out of files. Blocking; call from a thread."""

from __future__ import annotations

import base64
import binascii
import contextlib
import importlib.util
import io
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from host_api.app.errors import ApiError

_PDFIUM = threading.Lock()  # the library is not thread-safe
_SMALLEST = 32  # pixels; smaller pictures are rules and bullets
_SIDE = 1024
_MOST_PICTURES = 20  # a page
_OFFICE = {".docx", ".pptx", ".xlsx"}
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_TEXT = {".txt", ".md", ".markdown", ".rst", ".csv", ".json", ""}


@dataclass(frozen=True)
class Page:
    """A page, from 1: its text and its pictures as PNG."""

    number: int
    text: str
    pictures: tuple[bytes, ...] = field(default=(), repr=False)


def needs(package: str) -> None:
    """Raise a 501 that says what to install unless ``package`` is here."""
    if importlib.util.find_spec(package) is None:
        message = f"{package} is not installed; documents need: pip install 'mlx-sidecar[host,documents]'"
        raise ApiError(501, message, code="documents_missing")


def count(name: str, content: bytes) -> int:
    """How many pages a file has. Raises a 415 or 422."""
    if _kind(name, content) == "pdf":
        with _PDFIUM, _pdf(content) as document:
            return len(document)
    if _kind(name, content) == "office":
        return len(_docling(name, content))
    return 1


def pages(name: str, content: bytes, skip: frozenset[int] = frozenset()) -> Iterator[Page]:
    """The pages of a file but those in ``skip``. Raises a 415 or 422."""
    kind = _kind(name, content)
    if kind == "pdf":
        yield from (_pdf_page(content, n) for n in range(1, count(name, content) + 1) if n not in skip)
    elif kind == "office":
        yield from (p for p in _docling(name, content) if p.number not in skip)
    elif 1 not in skip:
        if kind == "image":
            yield Page(1, "", (_png(_opened(content)),))
        elif kind == "html":
            yield _html(content)
        else:
            yield Page(1, _decoded(content))


def text_of(name: str, content: bytes) -> str:
    """All text of a file. Raises a 415 or 422."""
    return "\n\n".join(p.text for p in pages(name, content) if p.text)


def _kind(name: str, content: bytes) -> str:
    suffix = Path(name).suffix.lower()
    if content[:5] == b"%PDF-":
        needs("pypdfium2")
        return "pdf"
    if suffix in _OFFICE:
        needs("docling")
        return "office"
    if suffix in _IMAGES:
        needs("PIL")
        return "image"
    if suffix in (".html", ".htm"):
        return "html"
    if suffix in _TEXT and b"\0" not in content[:4096]:
        return "text"
    message = f"{name}: give a PDF, a Word, PowerPoint or Excel file (.docx, .pptx, .xlsx), an image, HTML or text."
    raise ApiError(415, message, code="document_unsupported")


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _pdf(content: bytes) -> Any:
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as exc:
        message = f"The PDF can't be opened ({exc}); is it complete, and without a password?"
        raise ApiError(422, message, code="document_broken") from exc


def _pdf_page(content: bytes, number: int) -> Page:
    import pypdfium2
    from pypdfium2 import raw

    pictures: list[bytes] = []
    with _PDFIUM, _pdf(content) as document, contextlib.closing(document[number - 1]) as page:
        with contextlib.closing(page.get_textpage()) as textpage:
            text = textpage.get_text_bounded().replace("\r\n", "\n").strip()
        for item in page.get_objects(filter=(raw.FPDF_PAGEOBJ_IMAGE,), max_depth=4):
            try:
                image = item.get_bitmap(render=False).to_pil()
            except (pypdfium2.PdfiumError, ValueError):
                continue
            if min(image.size) >= _SMALLEST and len(pictures) < _MOST_PICTURES:
                pictures.append(_png(image))
    return Page(number, text, tuple(pictures))


def _opened(content: bytes) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as exc:
        raise ApiError(422, f"The image can't be opened ({exc}).", code="document_broken") from exc
    return image


def _png(image: Any) -> bytes:
    image = image.convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


class _Reader(HTMLParser):
    _BLOCKS = frozenset({"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article"})

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.images: list[bytes] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style", "template"):
            self._hidden += 1
        if tag in self._BLOCKS:
            self.pieces.append("\n")
        source = dict(attrs).get("src") or ""
        if tag == "img" and source.startswith("data:image/") and ";base64," in source:
            with contextlib.suppress(binascii.Error, ValueError):
                self.images.append(base64.b64decode(source.partition(";base64,")[2], validate=True))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style", "template") and self._hidden:
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)


def _html(content: bytes) -> Page:
    reader = _Reader()
    reader.feed(_decoded(content))
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.pieces).split("\n"))
    pictures: list[bytes] = []
    for given in reader.images[:_MOST_PICTURES]:
        with contextlib.suppress(ApiError):  # an SVG, say: the rest of the page is still worth reading
            pictures.append(_png(_opened(given)))
    return Page(1, "\n".join(line for line in lines if line), tuple(pictures))


def table(rows: list[list[str]]) -> str:
    """A table as lines, one a row; under a heading each says what its values are, so that it is found by itself."""
    lines = [", ".join(v for v in row if v) for row in rows]
    heads = rows[0] if rows else []
    numbers = any(re.fullmatch(r"[-+\d.,:/% ]*", head) for head in heads)  # the empty one too
    if len(rows) > 2 and len(heads) > 1 and not numbers and len(set(heads)) == len(heads):
        pairs = [[f"{h}: {v}" for h, v in zip(heads, row, strict=False) if v] for row in rows[1:]]
        lines[1:] = ["; ".join(pair) for pair in pairs]
    return "\n".join(line for line in lines if line)


def _backend(suffix: str) -> tuple[Any, Any]:
    """Docling's name for a format, and its reader."""
    from docling.datamodel.base_models import InputFormat

    if suffix == ".pptx":
        from docling.backend.mspowerpoint_backend import MsPowerpointDocumentBackend

        return InputFormat.PPTX, MsPowerpointDocumentBackend
    if suffix == ".xlsx":
        from docling.backend.msexcel_backend import MsExcelDocumentBackend

        return InputFormat.XLSX, MsExcelDocumentBackend
    from docling.backend.msword_backend import MsWordDocumentBackend

    return InputFormat.DOCX, MsWordDocumentBackend


def _docling(name: str, content: bytes) -> list[Page]:
    """Through Docling's readers; slides, sheets, or one page where the format has none. They need no models."""
    from docling.datamodel.document import InputDocument

    kind, reader = _backend(Path(name).suffix.lower())
    try:
        given = InputDocument(path_or_stream=io.BytesIO(content), format=kind, backend=reader, filename=name)
        document = given._backend.convert()
    except Exception as exc:
        message = (
            f"{name} can't be read as {kind.value} ({type(exc).__name__}); is it complete, and without a password?"
        )
        raise ApiError(422, message, code="document_broken") from exc
    texts: dict[int, list[str]] = {}
    pictures: dict[int, list[bytes]] = {}
    for number, sheet in enumerate((g.name for g in document.groups if g.label == "sheet"), 1):
        texts.setdefault(number, []).append(sheet)
    for item, _ in document.iterate_items():
        number = item.prov[0].page_no if getattr(item, "prov", None) else 1
        if text := getattr(item, "text", ""):
            texts.setdefault(number, []).append(text)
        elif item.label == "table":
            rows = [[cell.text.strip() for cell in row] for row in item.data.grid]
            words = table(rows) if kind.value == "xlsx" else item.export_to_markdown(document)
            texts.setdefault(number, []).append(words)
        elif item.label == "picture":
            image = item.get_image(document)
            if image is not None and min(image.size) >= _SMALLEST:
                pictures.setdefault(number, []).append(_png(image))
    numbers = sorted({*texts, *pictures})
    return [Page(n, "\n".join(texts.get(n, [])), tuple(pictures.get(n, [])[:_MOST_PICTURES])) for n in numbers]
