"""Reading files, cutting text, normalising tags."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from host_api.app.documents import chunks, readers
from host_api.app.documents.content import DocumentError, table_lines
from host_api.app.documents.tagging import normalise
from host_api.app.models.probes import square_png
from tests.support.documents import docx, pdf, pptx, shape, xlsx


def test_a_pdf_has_its_text_and_pictures_page_by_page() -> None:
    content = pdf([("First page", [(255, 0, 0)]), ("Second\nline", [(0, 255, 0), (0, 0, 255)]), ("Third", [])])
    assert readers.read("x.pdf", content).total == 3
    pages = list(readers.pages("x.pdf", content))
    assert [p.number for p in pages] == [1, 2, 3]
    assert [len(p.pictures) for p in pages] == [1, 2, 0]
    assert "Second" in pages[1].text
    colours = [Image.open(io.BytesIO(i)).getpixel((5, 5)) for p in pages for i in p.pictures]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert [p.number for p in readers.pages("x.pdf", content, frozenset({1, 3}))] == [2]


def test_html_is_read_without_its_scripts_and_with_its_pictures() -> None:
    image = base64.b64encode(square_png(side=40)).decode()
    source = "<style>x{}</style><h1>Title</h1><p>Some <b>bold</b> text<script>bad()</script></p>"
    source += f"<img src='data:image/png;base64,{image}'><img src='http://x/y.png'>"
    source += "<img src='data:image/svg+xml;base64,PHN2Zy8+'>"
    (page,) = readers.pages("x.html", source.encode())
    assert page.text == "Title\nSome bold text"
    assert len(page.pictures) == 1


def test_a_word_file_is_one_page_with_its_table_and_pictures() -> None:
    content = docx("Bread is baked.", [shape("circle", "red"), shape("square", "blue", side=16)])
    assert readers.read("x.docx", content).total == 1
    (page,) = readers.pages("x.docx", content)
    assert "A heading" in page.text
    assert "Bread is baked." in page.text
    assert "5 kg" in page.text
    assert [Image.open(io.BytesIO(p)).size for p in page.pictures] == [(224, 224)]
    assert list(readers.pages("x.docx", content, frozenset({1}))) == []


def test_a_powerpoint_file_has_a_page_for_each_slide() -> None:
    content = pptx([("First", []), ("Second", [shape("circle", "red"), shape("circle", "blue")])])
    assert readers.read("x.pptx", content).total == 2
    pages = list(readers.pages("x.pptx", content))
    assert [(p.number, p.text, len(p.pictures)) for p in pages] == [(1, "First", 0), (2, "Second", 2)]
    assert [p.number for p in readers.pages("x.pptx", content, frozenset({1}))] == [2]


STOCK = [("Item", "Weight", "Price"), ("Flour", "5 kg", 3.5), ("Yeast", None, 1), ("Salt", "1 kg", 0.4)]


def test_an_excel_file_has_a_page_for_each_sheet_and_a_line_for_each_row() -> None:
    content = xlsx({"Stock": STOCK, "Staff": [("Ann", "baker"), ("Bob", "driver")]}, [shape("circle", "red")])
    assert readers.read("x.xlsx", content).total == 2
    stock, staff = readers.pages("x.xlsx", content)
    assert stock.text.splitlines() == [
        "Stock",
        "Item, Weight, Price",
        "Item: Flour; Weight: 5 kg; Price: 3.5",
        "Item: Yeast; Price: 1",
        "Item: Salt; Weight: 1 kg; Price: 0.4",
    ]
    assert staff.text.splitlines() == ["Staff", "Ann, baker", "Bob, driver"]
    assert [Image.open(io.BytesIO(p)).size for p in staff.pictures] == [(224, 224)]
    assert [p.number for p in readers.pages("x.xlsx", content, frozenset({1}))] == [2]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], ""),
        ([["a"], ["b"], ["c"]], "a\nb\nc"),
        ([["2023", "2024"], ["1", "2"], ["3", "4"]], "2023, 2024\n1, 2\n3, 4"),
        ([["x", ""], ["1", "2"], ["3", "4"]], "x\n1, 2\n3, 4"),
        ([["x", "y"], ["", ""], ["3", "4"]], "x, y\nx: 3; y: 4"),
    ],
)
def test_a_table_becomes_lines(rows: list[list[str]], text: str) -> None:
    assert "\n".join(line for _, line in table_lines(tuple(map(tuple, rows)))) == text


def test_images_and_text_are_one_page() -> None:
    (page,) = readers.pages("x.png", square_png())
    assert (page.text, len(page.pictures)) == ("", 1)
    assert readers.text_of("notes.md", "# Grüße".encode()) == "Grüße"
    assert readers.text_of("old.txt", "Grüße".encode("latin-1")) == "Grüße"


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("x.exe", b"MZ\0\0", 415),
        ("x.txt", b"a\0b", 415),
        ("x.pdf", b"%PDF-1.4 and nothing", 422),
        ("x.png", b"not an image", 422),
        ("x.docx", b"PK not really", 422),
        ("x.pptx", b"PK not really", 422),
        ("x.xlsx", b"PK not really", 422),
        ("x.xls", b"\xd0\xcf\x11\xe0\0", 415),
    ],
)
def test_what_cannot_be_read_says_why(name: str, content: bytes, status: int) -> None:
    with pytest.raises(DocumentError) as caught:
        readers.text_of(name, content)
    assert caught.value.status_code == status
    assert len(caught.value.message) > 20


def test_pieces_are_small_overlap_and_lose_no_word() -> None:
    words = [f"word{i}" for i in range(500)]
    pieces = chunks.split(" ".join(words), 400, 60)
    assert all(len(p) <= 400 for p in pieces)
    assert {w for p in pieces for w in p.split()} >= set(words)
    assert chunks.split("", 400, 60) == []
    assert [len(p) for p in chunks.split("x" * 1000, 400, 0)] == [400, 400, 200]
    assert chunks.split("One sentence here. " * 30, 100, 0)[0].endswith(".")


def test_tags_are_normalised_and_unique() -> None:
    given = ["#Machine Learning", "machine_learning", " ＡＩ ", "", "x" * 50, 7, "Café", "cafe\u0301"]
    assert normalise(given) == ["machine learning", "ai", "7", "café"]
    assert len(normalise(range(100))) == 8
