"""``file`` and ``video_url`` parts of a conversation: read, and put in as text of their pages and pictures of them.

Every page stands under its name (``[report.pdf, page 3 of 12]``), so that an answer can say where it found something.
Files share half of the context (``--file-tokens``): first the text of their pages in order, then pictures of pages as
far as tokens and pictures go, pages without text before others. What is left out is said where it is missing, to the
model as to whoever reads the conversation. Tokens are estimated here, where there is no tokenizer. Of a video the
pages are frames, each under its time (``[clip.mp4, at 0:03.5]``).
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import unquote

from sidecar.api import pictures as images
from sidecar.api.conversation import AudioPart, AudioUrlPart, FilePart, ImagePart, Message, TextPart, VideoPart
from sidecar.config import Settings
from sidecar.engine.messages import ModelInfo, SoundData
from sidecar.errors import bad_request
from sidecar.text import files
from sidecar.text.files import FileError, FileRead, Wanted
from sidecar.text.files.pages import is_video

CHARACTERS = 3
"""Characters of a token, as few as languages with an alphabet have on average."""
PICTURE_TOKENS = 1300
"""Tokens of a page's picture at ``PICTURE_SIDE``: what processors of 28 pixels a token make of it, about."""
PICTURE_SIDE = 1024
FRAME_TOKENS = 260
"""Tokens of a video's frame at ``FRAME_SIDE``."""
FRAME_SIDE = 448
FPS = 2.0
"""Frames for each second of a video, unless its part or the room there is says otherwise: mlx-vlm's own number."""
UNKNOWN_CONTEXT = 8192
MOST_FILES = 32
_PICTURES = frozenset([b"\x89PNG", b"GIF8", *(b"\xff\xd8\xff" + bytes([n]) for n in range(0xC0, 0x100))])


def expanded(settings: Settings, model: ModelInfo, messages: list[Message], *, pictures: bool = True) -> list[Message]:
    """Return messages with their files read. ``pictures``: of pages, too. Raises ApiError. Blocking."""
    read_here = FilePart | VideoPart
    places = [(i, j) for i, m in enumerate(messages) for j, p in enumerate(_parts(m)) if isinstance(p, read_here)]
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
        param = f"messages.{i}.content.{j}"
        if messages[i].role not in ("user", "tool"):
            raise bad_request(f"{param}: files belong in user messages.", param=param)
        if isinstance(part, VideoPart) and not pictures:
            made[i, j] = []
        elif isinstance(part, VideoPart):
            data = images.fetch(part.url, settings, param=f"{param}.video_url")
            made[i, j] = frames(model, "video", data, param, part, tokens=tokens, pictures=free)
        else:
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
    if is_video(kind, data):
        return frames(model, name, data, param, None, tokens=tokens, pictures=pictures) if pictures else []
    # Half of the tokens are for words at least; what they leave is for pictures.
    affordable = min(pictures, tokens // 2 // PICTURE_TOKENS)
    wanted = Wanted(characters=tokens * CHARACTERS, pictures=affordable, side=PICTURE_SIDE)
    try:
        found = files.read(name, kind, data, wanted)
    except FileError as exc:
        raise bad_request(f"{param}: {name}: {exc}", param=param, code="file_unreadable") from exc
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


def frames(
    model: ModelInfo, name: str, data: bytes, param: str, part: VideoPart | None, *, tokens: int, pictures: int
) -> list[TextPart | ImagePart]:
    """Return a video as frames of it, each under its time. ``part``: what was asked for. Raises ApiError."""
    if not model.sees:
        raise bad_request(f"{param}: this model takes no images, so no frames of a video either.", param=param)
    most = min(pictures, tokens // FRAME_TOKENS, (part and part.max_frames) or pictures)
    if most < 1:
        raise bad_request(
            f"{param}: {name}: there is no room for frames of it beside the other images; send fewer, or raise "
            "--max-images or the context.",
            param=param,
        )
    wanted = Wanted(frames=most, fps=(part and part.fps) or FPS, side=FRAME_SIDE)
    try:
        found = files.read(name, "", data, wanted)
    except FileError as exc:
        raise bad_request(f"{param}: {name}: {exc}", param=param, code="file_unreadable") from exc
    shown = f"{len(found.pages)} of its {found.total} frames, in their order, each after its time"
    out: list[TextPart | ImagePart] = []
    held = f"[{name}: a video of {found.seconds:.1f} s, shown by {shown}]\n"
    for page in found.pages:
        out.append(TextPart(type="text", text=f"{held}[{name}, {page.name}]\n"))
        out.append(_image(page.picture or b""))
        held = ""
    return out


def _image(png: bytes) -> ImagePart:
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    return ImagePart.model_validate({"type": "image_url", "image_url": {"url": url}})


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
            out.append(_image(page.picture))
    if found.notes:
        held += f"[{name}: {'; '.join(found.notes)}]\n"
    if held:
        out.append(TextPart(type="text", text=held.rstrip("\n") + "\n"))
    return out


def sounds(settings: Settings, model: ModelInfo, messages: list[Message]) -> tuple[SoundData, ...]:
    """Return the sounds of messages, decoded, in their order. Raises ApiError. Blocking."""
    out: list[SoundData] = []
    for i, message in enumerate(messages):
        for j, part in enumerate(_parts(message)):
            if not isinstance(part, AudioPart | AudioUrlPart):
                continue
            param = f"messages.{i}.content.{j}.{part.type}"
            if message.role != "user":
                raise bad_request(f"{param}: sounds belong in user messages.", param=param)
            if (why := model.can.get("hear", "it is not known to")) is not True:
                raise bad_request(
                    f"{param}: this model doesn't hear ({why}); send what was said as text.",
                    param=param,
                    code="audio_input_not_supported",
                )
            if len(out) == MOST_FILES:
                raise bad_request(f"messages: at most {MOST_FILES} sounds are taken in one request.", param="messages")
            out.append(_sound(settings, part, param))
    return tuple(out)


def _sound(settings: Settings, part: AudioPart | AudioUrlPart, param: str) -> SoundData:
    if isinstance(part, AudioUrlPart):
        data = images.fetch(part.audio_url.url, settings, param=param)
    else:
        given = part.input_audio.data
        data = images.data_url(given if given[:5].lower() == "data:" else f"data:;base64,{given}", param)
    try:
        found = files.read("sound", "", data, Wanted(sound=True))
    except FileError as exc:
        raise bad_request(f"{param}: {exc}", param=param, code="file_unreadable") from exc
    return SoundData(param=param, samples=found.samples, rate=found.rate)


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
