"""Zip files and the XML in them, opened only when what they hold is small enough."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from typing import Any
from urllib.parse import unquote

from host_api.app.documents.content import DocumentError, Limits, broken

_OLE = b"\xd0\xcf\x11\xe0"
_PACKAGE = "EncryptedPackage".encode("utf-16-le")  # the stream in which Office keeps an encrypted file


class Archive:
    """A zip in memory. Sizes are checked before anything is unpacked."""

    def __init__(self, content: bytes, limits: Limits) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as exc:
            raise broken(f"The file is damaged ({exc}); is it complete?") from exc
        infos = self._zip.infolist()
        if any(info.flag_bits & 1 for info in infos):
            raise encrypted()
        size = sum(info.file_size for info in infos)
        if size > limits.unpacked or len(infos) > limits.members:
            raise DocumentError(
                422,
                f"The file holds {size / 1e6:,.0f} MB in {len(infos):,} parts when unpacked; at most "
                f"{limits.unpacked / 1e6:,.0f} MB in {limits.members:,} are taken. Split it.",
                "document_too_large",
            )
        self.names = {info.filename for info in infos}
        self._folded = {info.filename.lower(): info.filename for info in infos}

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._folded

    def read(self, name: str) -> bytes:
        """Return a part's bytes; none when it is missing or damaged. Names differ in case between writers."""
        actual = self._folded.get(name.lower())
        if actual is None:
            return b""
        try:
            return self._zip.read(actual)
        except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, EOFError, RuntimeError):
            return b""

    def open(self, name: str) -> Any:
        """Open a part for reading piece by piece. Raises KeyError."""
        return self._zip.open(self._folded[name.lower()])

    def xml(self, name: str) -> Any:
        """Return a part's root element; None when it is missing or no XML."""
        return parse(self.read(name))


def parse(content: bytes) -> Any:
    """Return the root element of an XML document, as far as it can be read; None when it can't.

    Entities are never resolved and nothing is fetched.
    """
    from lxml import etree

    if not content:
        return None
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, recover=True, remove_comments=True, remove_pis=True
    )
    try:
        return etree.fromstring(content, parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def encrypted() -> DocumentError:
    """Return the error for a file behind a password."""
    return DocumentError(
        422, "The file is encrypted: open it, remove its password, and give it again.", "document_encrypted"
    )


def check_ole(content: bytes) -> None:
    """Raise for files of the old container: an encrypted new one, or Word 97's, Excel 97's, Outlook's."""
    if not content.startswith(_OLE):
        return
    if _PACKAGE in content:
        raise encrypted()
    message = (
        "This is an old Office file (.doc, .xls, .ppt) or an Outlook message (.msg): "
        "save it as .docx, .xlsx, .pptx, .eml or PDF."
    )
    raise DocumentError(415, message, "document_unsupported")


def beside(base: str, target: str) -> str:
    """Return the name in the archive of ``target`` as the part ``base`` says it."""
    target = unquote(target.partition("#")[0])
    if target.startswith("/"):
        return posixpath.normpath(target.lstrip("/"))
    return posixpath.normpath(posixpath.join(posixpath.dirname(base), target))


def local(element: Any) -> str:
    """Return an element's name without its namespace; empty for comments."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Any, name: str) -> str:
    """Return the attribute called ``name`` in any namespace, or an empty text."""
    found = element.get(name)
    if found is None:
        found = next((v for k, v in element.attrib.items() if k.rpartition("}")[2] == name), "")
    return str(found)


def children(element: Any, *names: str) -> list[Any]:
    """Return the child elements with one of these names, whatever their namespace."""
    return [child for child in element if local(child) in names]


def descendant(element: Any, name: str) -> Any:
    """Return the first element within with this name, or None."""
    return next((e for e in element.iter() if local(e) == name), None)
