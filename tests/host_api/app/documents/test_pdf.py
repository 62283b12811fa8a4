"""PDFs as they are shown: text in order, forms, notes, and pictures as rendered. Every file is made by hand."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

import pytest
from PIL import Image, ImageDraw

from host_api.app.documents import readers
from host_api.app.documents.content import DocumentError, Kind, Page
from host_api.app.documents.readers import pdf_layout

FONT = "/Font << /F1 3 0 R >>"
RED, WHITE = (255, 0, 0), (255, 255, 255)


def stream(data: bytes, more: str = "") -> bytes:
    return f"<< /Length {len(data)} {more}>>\nstream\n".encode() + data + b"\nendstream"


def made(
    content: str, *objects: bytes, page: str = "", resources: str = "", catalogue: str = "", box: str = "0 0 600 800"
) -> bytes:
    """Return a PDF of one page; its contents are object 5, ``objects`` are 6 and on, object 3 is Helvetica."""
    start = [
        f"<< /Type /Catalog /Pages 2 0 R {catalogue}>>".encode(),
        b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [{box}] /Contents 5 0 R {page} "
        f"/Resources << {FONT} {resources} >> >>".encode(),
        stream(content.encode("latin-1")),
    ]
    out, at = b"%PDF-1.4\n", []
    for number, body in enumerate([*start, *objects], 1):
        at.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = f"xref\n0 {len(at) + 1}\n0000000000 65535 f \n" + "".join(f"{o:010d} 00000 n \n" for o in at)
    return (
        out + f"{table}trailer << /Size {len(at) + 1} /Root 1 0 R >>\nstartxref\n{out and len(out)}\n%%EOF\n".encode()
    )


def lines(*given: tuple[float, float, str], size: int = 12) -> str:
    return "\n".join(f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET" for x, y, text in given)


def bitmap(image: Image.Image, more: str = "") -> bytes:
    space = {"RGB": "/DeviceRGB", "L": "/DeviceGray", "CMYK": "/DeviceCMYK"}[image.mode]
    head = f"/Type /XObject /Subtype /Image /Width {image.width} /Height {image.height} /BitsPerComponent 8"
    return stream(zlib.compress(image.tobytes()), f"{head} /Filter /FlateDecode /ColorSpace {space} {more}")


def flag() -> Image.Image:
    """Red at the left of white, 120 × 60."""
    image = Image.new("RGB", (120, 60), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 29, 59), fill="red")
    return image


def drawn(matrix: str, image: Image.Image, *more: bytes, extra: str = "", page: str = "") -> bytes:
    return made(f"q {matrix} cm /I Do Q", bitmap(image, extra), *more, page=page, resources="/XObject << /I 6 0 R >>")


def only(content: bytes) -> Page:
    (page,) = readers.pages("x.pdf", content)
    return page


def shown(content: bytes) -> Image.Image:
    (picture,) = only(content).pictures
    return Image.open(io.BytesIO(picture))


def at(image: Image.Image, x: float, y: float) -> tuple[int, ...]:
    pixel = image.getpixel((int(x * (image.width - 1)), int(y * (image.height - 1))))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize(
    ("turn", "size", "red", "white"),
    [
        (0, (120, 60), (0.1, 0.5), (0.9, 0.5)),
        (90, (60, 120), (0.5, 0.1), (0.5, 0.9)),
        (180, (120, 60), (0.9, 0.5), (0.1, 0.5)),
        (270, (60, 120), (0.5, 0.9), (0.5, 0.1)),
    ],
)
def test_a_picture_is_turned_with_its_page(
    turn: int, size: tuple[int, int], red: tuple[float, float], white: tuple[float, float]
) -> None:
    seen = shown(drawn("300 0 0 150 50 400", flag(), page=f"/Rotate {turn}"))
    assert seen.size == size
    assert (at(seen, *red), at(seen, *white)) == (RED, WHITE)


def test_a_picture_is_mirrored_turned_and_sheared_as_drawn() -> None:
    assert at(shown(drawn("-300 0 0 150 350 400", flag())), 0.95, 0.5) == RED
    upright = shown(drawn("0 300 -150 0 400 200", flag()))
    assert upright.height > upright.width
    assert at(upright, 0.5, 0.95) == RED


def test_a_picture_is_cropped_by_its_clip_and_masked_over_white() -> None:
    clipped = made(
        "q 50 400 100 150 re W n 300 0 0 150 50 400 cm /I Do Q", bitmap(flag()), resources="/XObject << /I 6 0 R >>"
    )
    seen = shown(clipped)
    assert seen.size == (40, 60)
    assert at(seen, 0.5, 0.5) == RED
    mask = Image.new("L", (120, 60), 0)
    mask.paste(255, (60, 0, 120, 60))
    seen = shown(drawn("300 0 0 150 50 400", Image.new("RGB", (120, 60), "black"), bitmap(mask), extra="/SMask 7 0 R"))
    assert (at(seen, 0.1, 0.5), at(seen, 0.9, 0.5)) == (WHITE, (0, 0, 0))


def test_a_picture_in_cmyk_inline_or_in_strips_is_one_picture() -> None:
    red, green, _ = at(shown(drawn("300 0 0 150 50 400", Image.new("CMYK", (64, 64), (0, 255, 255, 0)))), 0.5, 0.5)
    assert (red > 200, green < 80) == (True, True)
    inline = "q 300 0 0 150 50 400 cm BI /W 40 /H 40 /BPC 8 /CS /G ID " + "\x80" * 1600 + " EI Q"
    assert at(shown(made(inline)), 0.5, 0.5) == (128, 128, 128)
    strip = bitmap(Image.new("RGB", (200, 10), "red"))
    strips = "\n".join(f"q 200 0 0 10 50 {400 + 10 * i} cm /I Do Q" for i in range(10))
    assert shown(made(strips, strip, resources="/XObject << /I 6 0 R >>")).size == (200, 100)


def test_a_form_within_a_form_puts_its_picture_where_it_shows() -> None:
    form = stream(
        b"q 100 0 0 50 0 0 cm /I Do Q",
        "/Type /XObject /Subtype /Form /BBox [0 0 100 50] /Resources << /XObject << /I 6 0 R >> >> ",
    )
    outer = stream(
        b"q 2 0 0 2 10 10 cm /F Do Q",
        "/Type /XObject /Subtype /Form /BBox [0 0 600 800] /Resources << /XObject << /F 7 0 R >> >> ",
    )
    content = made("q 1 0 0 1 100 300 cm /O Do Q", bitmap(flag()), form, outer, resources="/XObject << /O 8 0 R >>")
    seen = shown(content)
    assert seen.size == (120, 60)
    assert (at(seen, 0.1, 0.5), at(seen, 0.9, 0.5)) == (RED, WHITE)


def test_a_scan_is_the_page_and_keeps_its_invisible_text() -> None:
    content = made(
        "q 600 0 0 800 0 0 cm /I Do Q BT 3 Tr /F1 12 Tf 50 700 Td (An old letter) Tj ET",
        bitmap(Image.new("L", (1700, 2200), 200)),
        resources="/XObject << /I 6 0 R >>",
    )
    page = only(content)
    assert page.text == "An old letter"
    image = Image.open(io.BytesIO(page.pictures[0]))
    assert max(image.size) == 1600


def test_a_drawn_chart_is_a_picture_and_a_tables_rules_are_none() -> None:
    bars = "".join(
        f"0.2 0.4 0.8 rg {100 + 60 * i} 400 40 {height} re f " for i, height in enumerate((50, 120, 90, 160))
    )
    chart = made(
        f"{bars} 0 0 0 RG 90 400 m 90 580 l S 90 400 m 350 400 l S {lines((100, 385, 'Q1'), (160, 385, 'Q2'))}"
    )
    page = only(chart)
    assert len(page.pictures) == 1
    assert min(Image.open(io.BytesIO(page.pictures[0])).size) > 300
    curve = "1 0 0 RG 100 400 m " + " ".join(f"{100 + 20 * i} {400 + (i * 37) % 90} l" for i in range(15)) + " S"
    assert len(only(made(curve)).pictures) == 1
    pie = "0 0.5 0 rg 300 500 m 400 500 l 400 555 355 600 300 600 c f "
    pie += "1 0 0 rg 300 500 m 300 600 l 245 600 200 555 200 500 c f "
    pie += "0 0 1 rg 300 500 m 200 500 l 200 445 245 400 300 400 c f"
    assert len(only(made(pie)).pictures) == 1
    rules = "".join(f"50 {y} m 550 {y} l S " for y in range(300, 701, 50)) + "".join(
        f"{x} 300 m {x} 700 l S " for x in (50, 200, 350, 550)
    )
    words = lines(*((x + 5, y + 15, f"cell {x} {y}") for x in (50, 200, 350) for y in range(300, 700, 50)))
    shaded = "".join(f"0.9 0.9 0.5 rg 50 {y} 500 50 re f " for y in (300, 400, 500))
    assert only(made(f"{shaded} {rules} 0 g {words}")).pictures == ()


def test_columns_are_read_one_after_the_other_and_a_title_first() -> None:
    left = [f"left line number {i} of the first column" for i in range(10)]
    right = [f"right line number {i} of the second one" for i in range(10)]
    mixed = [(x, 700 - 15 * i, t) for i in range(10) for x, t in ((40, left[i]), (320, right[i]))]
    text = only(
        made(lines((40, 740, "A title that goes over both of the columns of this page and on")) + "\n" + lines(*mixed))
    ).text
    assert text.split("\n") == ["A title that goes over both of the columns of this page and on", *left, *right]


def test_a_table_is_read_by_rows() -> None:
    cells = [
        (x, 700 - 18 * i, t)
        for i, row in enumerate((("Item", "Kg", "Price"), ("Flour", "5", "3.50"), ("Salt", "1", "0.40")))
        for x, t in zip((40, 200, 330), row, strict=True)
    ]
    column_by_column = [cells[i] for x in range(3) for i in range(x, 9, 3)]
    page = only(made(lines(*column_by_column)))
    assert page.blocks[0].kind == Kind.TABLE
    assert "Item: Salt; Kg: 1; Price: 0.40" in page.text


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (["pre-", "dicted by"], "predicted by"),
        (["pre\x02", "dicted by"], "predicted by"),
        (["soft\xad", "ware"], "software"),
        (["Anglo-", "Saxon"], "Anglo-Saxon"),
        (["pages 3-", "5"], "pages 3-\n5"),
        (["今天天气", "很好。"], "今天天气很好。"),
        (["one", "two"], "one\ntwo"),
    ],
)
def test_lines_of_a_paragraph_are_joined(given: Sequence[str], right: str) -> None:
    assert pdf_layout.joined(given) == right


def field(kind: str, rect: str, more: str) -> bytes:
    return f"<< /Type /Annot /Subtype /Widget /FT /{kind} /Rect [{rect}] /F 4 /P 4 0 R {more} >>".encode()


def test_a_forms_values_stand_beside_their_labels() -> None:
    states = "/AP << /N << /Yes 10 0 R /Off 10 0 R >> >>"
    content = made(
        lines((50, 700, "Name:"), (50, 650, "Member:"), (50, 600, "PIN:")),
        field("Tx", "100 690 300 710", "/T (name) /V (Ada Example) /DA (/F1 12 Tf 0 g)"),
        field("Btn", "110 645 122 660", f"/T (member) /TU (is a member) /V /Yes /AS /Yes {states}"),
        field("Tx", "100 595 300 610", "/T (pin) /V (1234) /Ff 8192 /DA (/F1 12 Tf 0 g)"),
        field("Ch", "100 545 300 560", "/T (town) /V (Oslo) /Opt [(Oslo) (Rome)] /Ff 131072 /DA (/F1 12 Tf 0 g)"),
        stream(b"", "/Type /XObject /Subtype /Form /BBox [0 0 12 12] "),
        page="/Annots [6 0 R 7 0 R 8 0 R 9 0 R]",
        catalogue="/AcroForm << /Fields [6 0 R 7 0 R 8 0 R 9 0 R] /DA (/F1 12 Tf 0 g) "
        "/DR << /Font << /F1 3 0 R >> >> >> ",
    )
    text = only(content).text
    assert "Name: Ada Example" in text.replace("\n", " ").replace("  ", " ")
    assert "[x] is a member" in text
    assert "Oslo" in text
    assert "1234" not in text


def test_comments_links_and_attachments_are_told() -> None:
    content = made(
        lines((50, 700, "See here")),
        b"<< /Type /Annot /Subtype /Text /Rect [0 0 9 9] /T (Ada) /Contents (Wrong year) >>",
        b"<< /Type /Annot /Subtype /Link /Rect [50 690 90 710] /A << /S /URI /URI (https://example.org/a) >> >>",
        b"<< /Type /Filespec /F (data.csv) /UF (data.csv) /EF << /F 9 0 R >> >>",
        stream(b"a,b", "/Type /EmbeddedFile "),
        page="/Annots [6 0 R 7 0 R]",
        catalogue="/Names << /EmbeddedFiles << /Names [(data.csv) 8 0 R] >> >> ",
    )
    text = only(content).text
    for words in ("See here", "[comment: Ada: Wrong year]", "[link: https://example.org/a]", "[attached: data.csv]"):
        assert words in text


def test_outlines_and_large_lines_are_headings_that_go_on() -> None:
    outline = b"<< /Type /Outlines /First 7 0 R /Last 7 0 R /Count 1 >>"
    entry = b"<< /Title (Harvest) /Parent 6 0 R /Dest [4 0 R /XYZ 0 720 0] >>"
    body = [(50, 650 - 15 * i, f"plain words of the text {i}") for i in range(8)]
    content = made(
        "\n".join((lines((50, 730, "Harvest")), lines((50, 680, "Big"), size=30), lines(*body))),
        outline,
        entry,
        catalogue="/Outlines 6 0 R ",
    )
    page = only(content)
    assert [(b.text, b.level) for b in page.blocks if b.kind == Kind.HEADING] == [("Harvest", 1), ("Big", 1)]


def test_an_encrypted_or_damaged_pdf_says_so() -> None:
    crypt = "/Filter /Standard /V 1 /R 2 /P -4 /O <" + "00" * 32 + "> /U <" + "11" * 32 + ">"
    locked = made("").replace(b"/Root 1 0 R", f"/Root 1 0 R /Encrypt << {crypt} >> /ID [<00> <00>]".encode())
    with pytest.raises(DocumentError) as caught:
        readers.read("x.pdf", locked)
    assert caught.value.code == "document_encrypted"
    with pytest.raises(DocumentError, match="complete"):
        readers.read("x.pdf", b"%PDF-1.7 and nothing")


def test_text_is_without_control_characters_and_ligatures() -> None:
    content = made(lines((50, 700, "e\\002ffi\\003cient")))
    assert not any(ord(c) < 32 and c != "\n" for c in only(content).text)
