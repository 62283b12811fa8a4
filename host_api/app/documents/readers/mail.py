"""Mails (.eml) and saved web pages (.mht): who wrote when about what, the words, the pictures, what is attached."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage, MIMEPart

from host_api.app.documents.content import Limits, PageBuilder, Reading, broken
from host_api.app.documents.readers import html, images
from host_api.app.documents.readers.text import decode

_SHOWN = ("From", "To", "Cc", "Date")


def read(content: bytes, limits: Limits) -> Reading:
    """Return a mail as one page. Raises DocumentError."""
    message = email.message_from_bytes(content, policy=email.policy.default)
    if not isinstance(message, EmailMessage) or not message.keys():
        raise broken("This is no mail: it has no headers.")
    made = PageBuilder(limits)
    made.heading(_header(message, "Subject"), 1)
    made.text("\n".join(f"{name}: {value}" for name in _SHOWN if (value := _header(message, name))))
    body = message.get_body(("html", "plain"))
    notes: list[str] = []
    parts = [p for p in message.walk() if not p.is_multipart()]
    if body is not None:
        text = _words(body)
        if body.get_content_type() == "text/html":
            named = {str(p.get("Content-ID", "")).strip("<>"): p for p in parts}
            placed = {str(p.get("Content-Location", "")): p for p in parts}

            def fetch(source: str) -> bytes:
                part = named.get(source[4:]) if source.startswith("cid:") else placed.get(source)
                return _bytes(part) if part is not None else b""

            notes += html.fill(text, made, fetch)
        else:
            made.text(text)
    attached = [p for p in message.iter_attachments() if p.get_filename() or p.get_content_type() != "text/plain"]
    for part in attached:
        name = part.get_filename() or part.get_content_type()
        made.note("attached", name)
        if part.get_content_maintype() == "image" and part.get_content_disposition() == "attachment":
            png = images.png_of(_bytes(part), limits)
            if png is not None:
                made.picture(png, name)
        elif part.get_content_type() in ("text/plain", "message/rfc822"):
            made.text(_words(part) if part.get_content_type() == "text/plain" else str(part.get_payload(0))[:20_000])
    return Reading(1, (made.page(1),), notes=notes)


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message.get(name, "")).split())
    except (ValueError, IndexError, TypeError, AttributeError):  # the parser of malformed addresses gives up so
        return ""


def _bytes(part: MIMEPart) -> bytes:
    found = part.get_payload(decode=True)
    return found if isinstance(found, bytes) else b""


def _words(part: MIMEPart) -> str:
    declared = part.get_content_charset()
    return decode(_bytes(part), declared or html.charset(_bytes(part)))[0]
