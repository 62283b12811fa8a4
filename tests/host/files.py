"""A PDF made by hand: pages with a line of text and pictures of one colour."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

Colour = tuple[int, int, int]


def pdf(pages: Sequence[tuple[str, Sequence[Colour]]], side: int = 64) -> bytes:
    """The file's bytes; every picture is a square of ``side`` pixels."""
    objects: list[bytes] = [b"", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text, colours in pages:
        names, draws = [], []
        for i, colour in enumerate(colours):
            data = zlib.compress(bytes(colour) * side * side)
            head = f"<< /Type /XObject /Subtype /Image /Width {side} /Height {side} /ColorSpace /DeviceRGB"
            head += f" /BitsPerComponent 8 /Filter /FlateDecode /Length {len(data)} >>\nstream\n"
            objects.append(head.encode() + data + b"\nendstream")
            names.append(f"/I{i} {len(objects)} 0 R")
            draws.append(f"q 100 0 0 100 {50 + 120 * i} 400 cm /I{i} Do Q")
        lines = [f"BT /F1 12 Tf 50 {700 - 20 * n} Td ({line}) Tj ET" for n, line in enumerate(text.split("\n"))]
        content = "\n".join([*lines, *draws]).encode()
        objects.append(f"<< /Length {len(content)} >>\nstream\n".encode() + content + b"\nendstream")
        resources = f"<< /Font << /F1 3 0 R >> /XObject << {' '.join(names)} >> >>"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources {resources}"
        page += f" /Contents {len(objects)} 0 R >>"
        objects.append(page.encode())
        kids.append(f"{len(objects)} 0 R")
    objects[0] = b"<< /Type /Catalog /Pages 2 0 R >>"
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode()
    out = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{o:010d} 00000 n \n".encode() for o in offsets)
    return out + f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
