"""Reads files of any kind that people keep: bytes in, pages of blocks and pictures out. Blocking.

Each family of formats is a file of its own. What a file is is told by its content first and by its name second, since
names lie. Nothing here knows a web framework, a database or a model; ``host_api.app.documents.reading`` runs it in a
child process with limits.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from host_api.app.documents.content import DocumentError, Limits, Page, Reading, unsupported, with_paths
from host_api.app.documents.readers.archive import Archive, check_ole

_PICTURES = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\x01\0\x01",
    b"\0\0\0\x0cjP",
)
_IMAGES = re.compile(r"\.(png|jpe?g|webp|gif|bmp|tiff?|hei[cf]|avif|jp2|ico|svgz?|p[pgb]m)")
_HTML = frozenset((".html", ".htm", ".xhtml", ".shtml"))
_MAIL = frozenset((".eml", ".mht", ".mhtml"))
_NEEDS = {"pdf": "pypdfium2", "image": "PIL", "html": "selectolax", "office": "lxml", "rtf": "striprtf"}
_NAMES = (
    "a PDF, an Office or OpenDocument file (.docx, .pptx, .xlsx, .odt, .ods, .odp), an e-book (.epub), a mail (.eml), "
    "rich text (.rtf), a picture, HTML, CSV, JSON, Markdown or any other text"
)


_NAMED = re.compile(
    r"\.(pdf|docx|docm|dotx|pptx|pptm|ppsx|xlsx|xlsm|odt|ods|odp|epub|eml|mht|mhtml|rtf|html?|xhtml|csv|tsv|json|jsonl"
    r"|ndjson|ipynb|ya?ml|md|markdown|rst|txt|text|log|tex|srt|vtt|org|adoc|toml|ini|xml"
    r"|png|jpe?g|webp|gif|bmp|tiff?|hei[cf]|avif|jp2|svgz?)",
    re.IGNORECASE,
)


def is_named_as_document(name: str) -> bool:
    """Tell whether a file's name says that it is worth a look, for folders with all kinds of files."""
    return bool(_NAMED.fullmatch(PurePosixPath(name).suffix))


def missing(package: str) -> DocumentError | None:
    """Return the error that says what to install, where ``package`` isn't installed."""
    if importlib.util.find_spec(package) is not None:
        return None
    message = f"{package} is not installed; documents need: pip install 'mlx-sidecar[host,documents]'"
    return DocumentError(501, message, "documents_missing")


def read(name: str, content: bytes, limits: Limits | None = None, skip: frozenset[int] = frozenset()) -> Reading:
    """Return a file being read, without the pages in ``skip``. Raises a DocumentError with 415, 422 or 501."""
    limits = limits or Limits()
    suffix = PurePosixPath(name).suffix.lower()
    kind = kind_of(suffix, content)
    if kind == "pdf":
        from host_api.app.documents.readers import pdf

        return pdf.read(content, limits, skip)
    found = _whole(kind, suffix, content, limits)
    return Reading(found.total, (p for p in with_paths(found.pages) if p.number not in skip), found.notes)


def pages(
    name: str, content: bytes, skip: frozenset[int] = frozenset(), limits: Limits | None = None
) -> Iterator[Page]:
    """Yield the pages of a file but those in ``skip``. Raises a DocumentError."""
    yield from read(name, content, limits, skip).pages


def text_of(name: str, content: bytes) -> str:
    """Return all text of a file. Raises a DocumentError."""
    return "\n\n".join(page.text for page in pages(name, content) if page.text)


def kind_of(suffix: str, content: bytes) -> str:
    """Return which family reads a file. Raises a 415, 422 or 501."""
    kind = _kind(suffix, content)
    if kind in _NEEDS and (problem := missing(_NEEDS[kind])) is not None:
        raise problem
    return kind


def _kind(suffix: str, content: bytes) -> str:
    head = content[:1024]
    at = head.find(b"%PDF-")
    if at == 0 or (at > 0 and (suffix in (".pdf", "") or not head[:at].strip(b"\xef\xbb\xbf\r\n\t \0"))):
        return "pdf"
    if content.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"\xd0\xcf\x11\xe0")):
        return "office"
    riff = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if riff or content.startswith(_PICTURES) or content[4:8] == b"ftyp" or _IMAGES.fullmatch(suffix):
        return "image"
    if content.startswith(b"{\\rtf"):
        return "rtf"
    start = head.lstrip(b"\xef\xbb\xbf\r\n\t ").lower()
    if suffix in _MAIL:
        return "mail"
    if suffix in _HTML or start.startswith((b"<!doctype html", b"<html")):
        return "html"
    if start.startswith((b"<?xml", b"<svg")) and b"<svg" in content[:4096]:
        return "image"
    if suffix in (".docx", ".pptx", ".xlsx", ".odt", ".ods", ".odp", ".epub", ".zip"):
        raise DocumentError(422, f"The file is damaged or no {suffix} file; is it complete?", "document_broken")
    return "text"


def _whole(kind: str, suffix: str, content: bytes, limits: Limits) -> Reading:
    """Return a file of a kind that is read as a whole."""
    from host_api.app.documents.readers import html, images, mail, records, rtf, tables, text

    if kind == "office":
        return _packed(suffix, content, limits)
    if kind == "image":
        return images.read(content, limits)
    if kind == "mail":
        return mail.read(content, limits)
    if kind == "html":
        return html.read(content, limits)
    if kind == "rtf":
        return rtf.read(content, limits)
    if suffix in (".csv", ".tsv", ".tab"):
        return tables.read(content, limits, separator=None if suffix == ".csv" else "\t")
    if suffix in (".json", ".jsonl", ".ndjson", ".ipynb", ".geojson"):
        return records.read(content, limits, lines=suffix in (".jsonl", ".ndjson"))
    if suffix in (".md", ".markdown"):
        return text.read_markdown(content, limits)
    try:
        return text.read(content, limits)
    except DocumentError as exc:
        if b"\0" in content[:4096]:
            raise unsupported(f"This kind of file isn't read. Give {_NAMES}.") from exc
        raise


def _packed(suffix: str, content: bytes, limits: Limits) -> Reading:
    """Return a file that is a zip of parts."""
    archive, family = _family(suffix, content, limits)
    module = importlib.import_module(f"host_api.app.documents.readers.{family}")
    found: Reading = module.read(archive, limits)
    return found


def _family(suffix: str, content: bytes, limits: Limits) -> tuple[Archive, str]:
    """Return a zip and the name of the reader for what it holds. Raises a 415 or 422."""
    check_ole(content)
    archive = Archive(content, limits)
    kind = archive.read("mimetype").strip().decode("ascii", "ignore")
    if kind == "application/epub+zip" or (suffix == ".epub" and "META-INF/container.xml" in archive):
        return archive, "epub"
    if kind.startswith("application/vnd.oasis.opendocument") or suffix in (".odt", ".ods", ".odp"):
        return archive, "odf"
    folders = {name.split("/")[0].lower() for name in archive.names}
    family = next((f for folder, f in (("word", "docx"), ("ppt", "pptx"), ("xl", "xlsx")) if folder in folders), "")
    if not family or "[Content_Types].xml" not in archive:
        raise unsupported(f"A zip of other files isn't read: unpack it. Give {_NAMES}.")
    return archive, family


def check(name: str, content: bytes) -> None:
    """Look at what a file is without reading it through. Raises a DocumentError."""
    suffix = PurePosixPath(name).suffix.lower()
    kind = kind_of(suffix, content)
    if kind == "office":
        _family(suffix, content, Limits())
    elif kind == "pdf":
        read(name, content)
    elif kind == "text":
        _whole(kind, suffix, content[: 1 << 20], Limits(cells=1000, characters=100_000))
    elif kind == "image":
        _whole(kind, suffix, content, Limits(side=64, page_side=64, pages=1))
