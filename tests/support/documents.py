"""Documents made for tests: pictures of shapes, a PDF made by hand, Word, PowerPoint and Excel files."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]


def shape(kind: str, colour: str, side: int = 224) -> Image.Image:
    """A filled circle, square or triangle in the middle of white: what the starter model's eyes know."""
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    near, far = side // 5, side * 4 // 5
    if kind == "circle":
        draw.ellipse((near, near, far, far), fill=colour)
    elif kind == "square":
        draw.rectangle((near, near, far, far), fill=colour)
    else:
        draw.polygon([(side // 2, near), (near, far), (far, far)], fill=colour)
    return image


def png(image: Image.Image) -> bytes:
    """The picture's file."""
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def docx(text: str, pictures: Sequence[Image.Image]) -> bytes:
    """A Word file: a heading, ``text``, a table, and pictures."""
    import docx as word

    made = word.Document()
    made.add_heading("A heading", 1)
    made.add_paragraph(text)
    table = made.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "Flour", "5 kg"
    for picture in pictures:
        made.add_picture(io.BytesIO(png(picture)))
    sink = io.BytesIO()
    made.save(sink)
    return sink.getvalue()


def pptx(slides: Sequence[tuple[str, Sequence[Image.Image]]]) -> bytes:
    """A PowerPoint file: each slide a title and pictures."""
    import pptx as powerpoint

    made = powerpoint.Presentation()
    for title, pictures in slides:
        slide = made.slides.add_slide(made.slide_layouts[5])
        slide.shapes.title.text = title
        for i, picture in enumerate(pictures):
            slide.shapes.add_picture(io.BytesIO(png(picture)), 1_000_000 * (2 * i + 1), 2_000_000)
    sink = io.BytesIO()
    made.save(sink)
    return sink.getvalue()


def xlsx(sheets: Mapping[str, Sequence[Sequence[object]]], pictures: Sequence[Image.Image] = ()) -> bytes:
    """An Excel file: sheets of rows; pictures on the last one."""
    import openpyxl
    from openpyxl.drawing.image import Image as Picture

    made = openpyxl.Workbook()
    made.remove(made.active)
    for name, rows in sheets.items():
        sheet = made.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    for picture in pictures:
        sheet.add_image(Picture(io.BytesIO(png(picture))), "H2")
    sink = io.BytesIO()
    made.save(sink)
    return sink.getvalue()


def pdf(pages: Sequence[tuple[str, Sequence[Colour | Image.Image]]], side: int = 64) -> bytes:
    """The file's bytes; a picture given as a colour is a square of ``side`` pixels."""
    objects: list[bytes] = [b"", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text, colours in pages:
        names, draws = [], []
        for i, given in enumerate(colours):
            picture = given if isinstance(given, Image.Image) else Image.new("RGB", (side, side), given)
            width, height = picture.size
            data = zlib.compress(picture.tobytes())
            head = f"<< /Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceRGB"
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
