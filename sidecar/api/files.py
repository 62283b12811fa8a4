"""``file`` parts of a conversation: read, and put in as the text of their pages and pictures of them.

Every page stands under its name (``[report.pdf, page 3 of 12]``), so that an answer can say where it found something.
Files share half of the context (``--file-tokens``): first the text of their pages in order, then pictures of pages as
far as tokens and pictures go, pages without text before others. What is left out is said where it is missing, to the
model as to whoever reads the conversation. Tokens are estimated here, where there is no tokenizer.
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import unquote

from sidecar.api import pictures as images
from sidecar.api.conversation import FilePart, ImagePart, Message, TextPart
from sidecar.config import Settings
from sidecar.engine.messages import ModelInfo
from sidecar.errors import bad_request
from sidecar.text import files
from sidecar.text.files import FileError, FileRead, Wanted

CHARACTERS = 3
"""Characters of a token, as few as languages with an alphabet have on average."""
PICTURE_TOKENS = 1300
"""Tokens of a page's picture at ``PICTURE_SIDE``: what processors of 28 pixels a token make of it, about."""
PICTURE_SIDE = 1024
UNKNOWN_CONTEXT = 8192
MOST_FILES = 32
_PICTURES = frozenset([b"\x89PNG", b"GIF8", *(b"\xff\xd8\xff" + bytes([n]) for n in range(0xC0, 0x100))])


def expanded(settings: Settings, model: ModelInfo, messages: list[Message], *, pictures: bool = True) -> list[Message]:
    """Return messages with their files read. ``pictures``: of pages, too. Raises ApiError. Blocking."""
    places = [(i, j) for i, m in enumerate(messages) for j, p in enumerate(_parts(m)) if isinstance(p, FilePart)]
    if not places:
        return messages
    if len(places) > MOST_FILES:
        raise bad_request(f"messages: at most {MOST_FILES} files are taken in one request.", param="messages")
    tokens = budget_of(settings, model) // len(places)
    given = sum(isinstance(p, ImagePart) for m in messages for p in _parts(m))
    most = min(settings.max_images, model.preset.get("max_images", settings.max_images))
    free = max(0, most - given) if pictures and model.sees else 0
    made: dict[tuple[int, int], list[TextPart | ImagePart]] = {}
    for i, j in places:
        part = _parts(messages[i])[j]
        assert isinstance(part, FilePart)
        param = f"messages.{i}.content.{j}"
        if messages[i].role not in ("user", "tool"):
            raise bad_request(f"{param}: files belong in user messages.", param=param)
        made[i, j] = read(settings, model, part, param, tokens=tokens, pictures=free)
        free -= sum(isinstance(p, ImagePart) for p in made[i, j])
    out = list(messages)
    for i in {i for i, _ in places}:
        content: list[Any] = []
        for j, part in enumerate(_parts(messages[i])):
            content += made.get((i, j), [part])
        out[i] = messages[i].model_copy(update={"content": content})
    return out


def _parts(message: Message) -> list[Any]:
    return message.content if isinstance(message.content, list) else []


def budget_of(settings: Settings, model: ModelInfo) -> int:
    """Return how many tokens the files of a request may take together."""
    if settings.file_tokens:
        return settings.file_tokens
    limits = [n for n in (settings.max_context, model.context, model.preset.get("context", 0)) if n > 0]
    return min(limits, default=UNKNOWN_CONTEXT) // 2


def read(
    settings: Settings, model: ModelInfo, part: FilePart, param: str, *, tokens: int, pictures: int
) -> list[TextPart | ImagePart]:
    """Return one file as parts. Raises ApiError."""
    name = " ".join((part.file.filename or "file").split())[:200]
    kind, data, address = _bytes_of(part, param)
    if kind.startswith("image/") or data[:4] in _PICTURES or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return [ImagePart.model_validate({"type": "image_url", "image_url": {"url": address}})]
    # Half of the tokens are for words at least; what they leave is for pictures.
    affordable = min(pictures, tokens // 2 // PICTURE_TOKENS)
    wanted = Wanted(characters=tokens * CHARACTERS, pictures=affordable, side=PICTURE_SIDE)
    try:
        found = files.read(name, kind, data, wanted)
    except FileError as exc:
        raise bad_request(f"{param}: {name}: {exc}.", param=param, code="file_unreadable") from exc
    spent = sum(len(p.text) for p in found.pages) // CHARACTERS
    allowed = min(affordable, max(0, tokens - spent) // PICTURE_TOKENS)
    if not any(p.text for p in found.pages) and not any(p.picture for p in found.pages):
        why = "takes no images" if not model.sees else "has no room for them"
        raise bad_request(
            f"{param}: {name} has no text, only pictures of pages, and this model {why}.",
            param=param,
            code="file_unreadable",
        )
    return parts_of(name, found, allowed)


def parts_of(name: str, found: FileRead, pictures: int) -> list[TextPart | ImagePart]:
    """Return a file's pages as parts, each under its name, with at most so many pictures."""
    out: list[TextPart | ImagePart] = []
    held = ""
    order = sorted((p for p in found.pages if p.picture), key=lambda p: (len(p.text) >= 40, p.number))
    shown = {p.number for p in order[:pictures]}
    for page in found.pages:
        of = f" of {found.total}" if page.name == f"page {page.number}" else ""
        held += f"[{name}, {page.name}{of}]\n" if page.name else f"[{name}]\n"
        held += f"{page.text}\n\n" if page.text else ""
        if page.number in shown and page.picture is not None:
            out.append(TextPart(type="text", text=held.rstrip("\n") + "\n"))
            held = ""
            url = "data:image/png;base64," + base64.b64encode(page.picture).decode()
            out.append(ImagePart.model_validate({"type": "image_url", "image_url": {"url": url}}))
    if found.notes:
        held += f"[{name}: {'; '.join(found.notes)}]\n"
    if held:
        out.append(TextPart(type="text", text=held.rstrip("\n") + "\n"))
    return out


def _bytes_of(part: FilePart, param: str) -> tuple[str, bytes, str]:
    """Return a file's media type, its bytes and its address. Raises ApiError."""
    file = part.file
    if file.file_data is None:
        what = "file_id" if file.file_id is not None else "file_data"
        raise bad_request(
            f"{param}.file.{what}: no files are kept here; send the file itself, as file_data.", param=param
        )
    address = file.file_data
    if address[:5].lower() != "data:":
        if "://" in address[:12]:
            raise bad_request(f"{param}.file.file_data: send the file as a data URL.", param=param)
        address = f"data:;base64,{address}"  # as some clients send it, bare
    kind = unquote(address[5:].partition(",")[0].partition(";")[0]).strip().lower()
    return kind, images.data_url(address, f"{param}.file.file_data"), address
