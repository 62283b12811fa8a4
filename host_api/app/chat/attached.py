"""Documents in a question: read once, in the readers' child, and told to the model within what it has room for.

A document is kept beside the pictures of chats, and so is what was read of it, so that later turns of the chat don't
read it again. The model is told the words page by page, each under the file's name, and pages without words (scans,
pictures of a kind that servers don't take) as pictures where it sees. What doesn't fit is named where it is missing.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from host_api.app.data.chats import FILE_URL, READ
from host_api.app.data.files import Files
from host_api.app.documents import reading
from host_api.app.errors import ApiError

ROOM = 16_000  # tokens of documents for a model whose context isn't known
CHARACTERS = 1_000_000  # read of one document
PICTURES = 4  # of pages without words, told with a question
_PICTURES_READ = 16
_KNOWN = 256
_LITTLE = 20  # characters; a page with fewer is what it shows
SEEN = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"})  # what a model's server takes


class Attachments:
    """Takes documents in. Blocking; call from threads."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._known: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, name: str, content: bytes) -> dict[str, Any]:
        """Keep and read a document; return what its part of a question says of it.

        The document has the keys ``digest``, ``pages``, ``characters``, ``scans`` (pages told as pictures), ``note``
        and ``files`` (digests that go with it). Raises an ApiError for what can't be read.
        """
        digest = self._files.put(content)
        with self._lock:
            found = self._known.get((digest, name))
        if found is None or not all(map(self._files.has, found["files"])):
            found = self._read(name, digest, content)
            with self._lock:
                self._known[(digest, name)] = found
                while len(self._known) > _KNOWN:
                    self._known.popitem(last=False)
        return found

    def _read(self, name: str, digest: str, content: bytes) -> dict[str, Any]:
        document = reading.Document(name, content)
        pages: list[dict[str, Any]] = []
        characters = 0
        kept: list[str] = []
        for page in document.pages():
            text = page.text
            shown: list[str] = []
            if len(text.strip()) < _LITTLE and len(kept) < _PICTURES_READ:
                shown = [self._files.put(picture) for picture in page.pictures[:1]]
                kept += shown
            pages.append({"number": page.number, "text": text, "pictures": shown})
            characters += len(text)
            if characters > CHARACTERS:
                break
        document.close()
        note = "; ".join(document.notes)
        if characters > CHARACTERS:
            note = f"only the first {len(pages)} of {document.total} pages are read"
        if not characters and not kept:
            raise ApiError(422, f"{reading.shown_name(name)} has no words and no pictures.", code="document_empty")
        whole = {"total": max(document.total, len(pages)), "pages": pages, "note": note}
        read = self._files.put(json.dumps(whole, ensure_ascii=False).encode("utf-8", "replace"))
        return {
            "digest": digest,
            "pages": whole["total"],
            "characters": characters,
            "scans": len(kept),
            "note": note,
            "files": [read, *kept],
        }

    def take(self, message: dict[str, Any]) -> None:
        """Read the documents of a question whose files are kept already, and note in their parts what was read.

        Raises an ApiError for what can't be read.
        """
        for part in message["parts"]:
            if part["type"] != "file":
                continue
            part.pop("providerMetadata", None)  # what was read is this service's to say
            url = str(part.get("url", ""))
            if part.get("mediaType") in SEEN or not url.startswith(FILE_URL):
                continue
            try:
                content = self._files.get(url.removeprefix(FILE_URL))
            except OSError:
                message_ = "A file of the question is not there any more; send it again."
                raise ApiError(409, message_, code="file_gone") from None
            name = str(part.get("filename") or "document")
            part["providerMetadata"] = {READ: self.add(name, content)}


def noted(part: dict[str, Any]) -> dict[str, Any] | None:
    """Return what was noted of a document in its part of a question, or None for another part."""
    found = (part.get("providerMetadata") or {}).get(READ) if part.get("type") == "file" else None
    return found if isinstance(found, dict) else None


def has_documents(parts: Iterable[dict[str, Any]]) -> bool:
    """Return whether any part is a document."""
    return any(noted(part) for part in parts)


def has_scans(parts: Iterable[dict[str, Any]]) -> bool:
    """Return whether any part is a document with pages that only a model with eyes can read."""
    return any((noted(part) or {}).get("scans") for part in parts)


def tokens(text: str) -> int:
    """Estimate how many tokens a text is, rather too many: 3.5 ASCII characters each, one for every other one."""
    ascii_ = sum(c.isascii() for c in text)
    return int(ascii_ / 3.5) + len(text) - ascii_ + 1


class Teller:
    """Tells documents within ``room`` tokens and ``pictures`` pictures, both shared by all of a conversation."""

    def __init__(self, files: Files, room: int, pictures: int) -> None:
        self._files = files
        self._room = room
        self._pictures = pictures

    def told(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the parts that stand for a document, its words and the pages told as pictures; others as they are."""
        note = noted(part)
        if note is None:
            return [part]
        name = " ".join(str(part.get("filename") or "document").split())[:200]
        try:
            whole = json.loads(self._files.get(note["files"][0]))
        except (OSError, ValueError, KeyError, IndexError):
            return [{"type": "text", "text": f"[{name}: a file that is not there any more]"}]
        lines: list[str] = []
        shown: list[dict[str, Any]] = []
        for at, page in enumerate(whole["pages"]):
            head = f"[{name}, page {page['number']} of {whole['total']}]"
            text = page["text"].strip()
            cost = tokens(head) + tokens(text)
            if cost > self._room:
                text = text[: self._fits(text, self._room - tokens(head))]
                rest = whole["total"] - at - (1 if text else 0)
                lines += [f"{head}\n{text}"] if text else []
                lines.append(f"[There was no room for the rest of {name}: {rest} more pages, or the end of this one.]")
                self._room = 0
                break
            self._room -= cost
            for digest in page["pictures"][: self._pictures]:
                shown.append({"type": "file", "mediaType": "image/png", "filename": name, "url": FILE_URL + digest})
                self._pictures -= 1
                text = f"{text}\n[This page is shown as picture {len(shown)} of {name}.]".strip()
            lines.append(f"{head}\n{text}" if text else f"{head}\n[This page has no words.]")
        if whole["note"]:
            lines.append(f"[{name}: {whole['note']}.]")
        return [{"type": "text", "text": "\n\n".join(lines)}, *shown]

    @staticmethod
    def _fits(text: str, room: int) -> int:
        """Return how many characters of a text fit into so many tokens."""
        if room <= 0:
            return 0
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if tokens(text[:middle]) <= room else (low, middle - 1)
        return low


def room_for(context: int | None) -> int:
    """Return how many tokens of documents a model is told, by its context: half of it."""
    return context // 2 if context else ROOM


def parts_of(turns: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the parts of all turns."""
    return [part for turn in turns for part in turn.parts]
