"""Rich text: the words by striprtf, the pictures by their hexadecimal digits."""

from __future__ import annotations

import re

from host_api.app.documents.content import DocumentError, Limits, PageBuilder, Reading, broken
from host_api.app.documents.readers import images

_PICTURE = re.compile(r"\\(?:png|jpe?g)blip[^{}]*?((?:[0-9a-fA-F]{2}[\s]*){64,})")


def read(content: bytes, limits: Limits) -> Reading:
    """Return a rich text file as one page. Raises a 422."""
    from striprtf.striprtf import rtf_to_text

    source = content.decode("latin-1")
    made = PageBuilder(limits)
    notes: list[str] = []
    found = [bytes.fromhex("".join(m[1].split())) for m in _PICTURE.finditer(source)]
    try:
        text = rtf_to_text(_PICTURE.sub("", source), errors="replace")
    except (UnicodeError, ValueError, LookupError, IndexError, RecursionError) as exc:
        raise broken(f"The rich text can't be read ({type(exc).__name__}).") from exc
    for paragraph in re.split(r"\n\s*\n|\n", text):
        made.table([paragraph.strip("|").split("|")]) if paragraph.count("|") > 1 else made.text(paragraph)
    for data in found:
        try:
            if (png := images.png_of(data, limits)) is not None:
                made.picture(png)
        except DocumentError as exc:
            notes.append(f"a picture was left out: {exc.message}")
    return Reading(1, (made.page(1),), notes=notes)
