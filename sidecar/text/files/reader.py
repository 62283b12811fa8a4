"""From a file's bytes to pages: what kind it is, text, and PDF. In the child alone."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from sidecar.text.files import frames, office, sound
from sidecar.text.files.pages import KINDS, FileRead, Page, ReadError, Wanted

_OLE = b"\xd0\xcf\x11\xe0"
_FEW = 40  # characters; a page with fewer is a picture of one
_TEXT_TYPES = ("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml")


def read(name: str, kind: str, data: bytes, wanted: Wanted) -> FileRead:
    """Return a file's pages; what it is is told by its bytes, not by its name. Raises ReadError."""
    if not data:
        raise ReadError("it is empty")
    if wanted.sound:
        return sound.read(data)
    if wanted.frames:
        return frames.read(data, wanted)
    if b"%PDF-" in data[:1024]:
        return _pdf(data, wanted)
    if data[:4] == b"PK\x03\x04":
        return office.read(data, wanted)
    if data[:4] == _OLE:
        raise ReadError("it is an old Office file or encrypted: save it as .docx, .xlsx, .pptx or PDF, unlocked")
    declared = kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+json", "+xml"))
    other = bool(kind) and kind not in ("application/octet-stream", "binary/octet-stream") and not declared
    text = None if other else _decoded(data, declared=declared)
    if text is None:
        shown = kind or name.rpartition(".")[2] or "this kind"
        raise ReadError(f"files of {shown} are not read here: send {KINDS}")
    cut = text[: wanted.characters]
    notes = (f"only the first {len(cut):,} of {len(text):,} characters are here",) if len(cut) < len(text) else ()
    return FileRead(pages=(Page(number=1, name="", text=cut),), total=1, notes=notes)


def _decoded(data: bytes, *, declared: bool) -> str | None:
    """Return bytes as text, None where they are none. ``declared``: whoever sent them says that they are."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-16").replace("\x00", "")
    with contextlib.suppress(UnicodeDecodeError):
        text = data.decode("utf-8-sig")
        return text if "\x00" not in text else None
    if b"\x00" in data or not declared:
        return None
    return data.decode("cp1252", "replace")


def _pdf(data: bytes, wanted: Wanted) -> FileRead:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
        with contextlib.suppress(pypdfium2.PdfiumError):
            document.init_forms()
    except pypdfium2.PdfiumError as exc:
        if "assword" in str(exc) or getattr(exc, "err_code", 0) == 4:
            raise ReadError("it is encrypted: open it, remove its password, and send it again") from exc
        raise ReadError(f"the PDF can't be opened ({exc}); is it complete?") from exc
    total = len(document)
    texts: list[str] = []
    notes: list[str] = []
    left = wanted.characters
    for index in range(min(total, wanted.pages)):
        text = _text_of(document, index, notes)
        if len(text) > left and texts:
            break
        texts.append(text[:left])
        left -= len(texts[-1])
        if len(texts[-1]) < len(text):
            notes.append(f"page {index + 1} is cut")
            break
    pictures = _pictures(document, texts, wanted, notes)
    if len(texts) < total:
        first = len(texts) + 1
        notes.append(f"{_pages(first, total)} left out: the file is longer than its share of the context")
    pages = tuple(
        Page(number=i + 1, name=f"page {i + 1}", text=text, picture=pictures.get(i)) for i, text in enumerate(texts)
    )
    return FileRead(pages=pages, total=total, notes=tuple(notes))


def _pages(first: int, last: int) -> str:
    return f"page {first} is" if first == last else f"pages {first} to {last} are"


def _text_of(document: Any, index: int, notes: list[str]) -> str:
    try:
        page = document[index]
        text: str = page.get_textpage().get_text_range()
    except Exception as exc:  # a page that is damaged costs itself
        notes.append(f"page {index + 1} can't be read ({str(exc)[:100]})")
        return ""
    return text.replace("\r\n", "\n").replace("\x00", "").replace("\ufffe", "-").strip()


def _pictures(document: Any, texts: list[str], wanted: Wanted, notes: list[str]) -> dict[int, bytes]:
    """Return pictures of pages by index: first of those whose text is not text, then of the others in order."""
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]) >= _FEW, i))
    out: dict[int, bytes] = {}
    for index in order[: wanted.pictures]:
        try:
            page = document[index]
            scale = wanted.side / max(page.get_size())
            image = page.render(scale=min(scale, 4.0)).to_pil().convert("RGB")
            sink = io.BytesIO()
            image.save(sink, "PNG")
            out[index] = sink.getvalue()
        except Exception as exc:
            notes.append(f"page {index + 1} can't be drawn ({str(exc)[:100]})")
    unseen = [i + 1 for i in order[wanted.pictures :] if len(texts[i]) < _FEW]
    if unseen:
        notes.append(f"of {', '.join(f'page {n}' for n in unseen[:20])} there is no text, and no picture is here")
    return out
