"""Reading files, cutting text, normalising tags."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from host_api.app.errors import ApiError
from host_api.app.probes import red_png
from host_api.app.tasks import chunks, documents
from host_api.app.tasks.tagging import normalise
from tests.host.files import pdf


def test_a_pdf_has_its_text_and_pictures_page_by_page() -> None:
    content = pdf([("First page", [(255, 0, 0)]), ("Second\nline", [(0, 255, 0), (0, 0, 255)]), ("Third", [])])
    assert documents.count("x.pdf", content) == 3
    pages = list(documents.pages("x.pdf", content))
    assert [p.number for p in pages] == [1, 2, 3]
    assert [len(p.pictures) for p in pages] == [1, 2, 0]
    assert "Second" in pages[1].text
    colours = [Image.open(io.BytesIO(i)).getpixel((5, 5)) for p in pages for i in p.pictures]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert [p.number for p in documents.pages("x.pdf", content, frozenset({1, 3}))] == [2]


def test_html_is_read_without_its_scripts_and_with_its_pictures() -> None:
    image = base64.b64encode(red_png(40)).decode()
    source = "<style>x{}</style><h1>Title</h1><p>Some <b>bold</b> text<script>bad()</script></p>"
    source += f"<img src='data:image/png;base64,{image}'><img src='http://x/y.png'>"
    (page,) = documents.pages("x.html", source.encode())
    assert page.text == "Title\nSome bold text"
    assert len(page.pictures) == 1


def test_images_and_text_are_one_page() -> None:
    (page,) = documents.pages("x.png", red_png(50))
    assert (page.text, len(page.pictures)) == ("", 1)
    assert documents.text_of("notes.md", "# Grüße".encode()) == "# Grüße"
    assert documents.text_of("old.txt", "Grüße".encode("latin-1")) == "Grüße"


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("x.exe", b"MZ\0\0", 415),
        ("x.txt", b"a\0b", 415),
        ("x.pdf", b"%PDF-1.4 and nothing", 422),
        ("x.png", b"not an image", 422),
    ],
)
def test_what_cannot_be_read_says_why(name: str, content: bytes, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        documents.text_of(name, content)
    assert caught.value.status_code == status


def test_pieces_are_small_overlap_and_lose_no_word() -> None:
    words = [f"word{i}" for i in range(500)]
    pieces = chunks.split(" ".join(words), 400, 60)
    assert all(len(p) <= 400 for p in pieces)
    assert {w for p in pieces for w in p.split()} >= set(words)
    assert chunks.split("", 400, 60) == []
    assert [len(p) for p in chunks.split("x" * 1000, 400, 0)] == [400, 400, 200]
    assert chunks.split("One sentence here. " * 30, 100, 0)[0].endswith(".")


def test_descriptions_are_in_the_parents() -> None:
    parents = chunks.build("Text.", ["a red house", "", "a blue boat"])
    assert [p.pictures for p in parents] == [(), (1,), (3,)]
    assert "a blue boat" in parents[2].text
    assert parents[2].children == (parents[2].text,)


def test_tags_are_normalised_and_unique() -> None:
    given = ["#Machine Learning", "machine_learning", " ＡＩ ", "", "x" * 50, 7, "Café", "cafe\u0301"]
    assert normalise(given) == ["machine learning", "ai", "7", "café"]
    assert len(normalise(range(100))) == 8
