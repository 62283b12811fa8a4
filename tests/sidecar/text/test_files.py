"""Files of a request: read in a child with limits, put into the conversation under their pages' names."""

from __future__ import annotations

import base64
import datetime
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import docx
import httpx
import openpyxl
import pptx
import pytest
from PIL import Image

from sidecar.text.files import FileError, Wanted, child, read

FOX = "The quick brown fox jumps over the lazy dog once more."
DAY = datetime.datetime(2024, 3, 1, 14, 30)


def pdf(*pages: str, scanned: bool = False) -> bytes:
    """Return a PDF with a page for each text; ``scanned``: its last page is only a picture."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for text in pages:
        lines = "".join(f"({line}) Tj T* " for line in text.split("\n"))
        stream = f"BT /F1 12 Tf 14 TL 50 700 Td {lines}ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        box = "/MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R {box} /Contents {len(objects)} 0 R >>")
        kids.append(len(objects))
    if scanned:
        stream = "0.2 0.4 0.9 rg 100 100 300 400 re f"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R >>")
        kids.append(len(objects))
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{k} 0 R' for k in kids)}] >>"
    out = b"%PDF-1.4\n"
    places = []
    for number, one in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{one}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return out + f"{head}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF".encode()


def word() -> bytes:
    document = docx.Document()
    document.add_paragraph("First page")
    document.add_page_break()  # type: ignore[no-untyped-call]
    document.add_paragraph("Second page")
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    sink = io.BytesIO()
    document.save(sink)
    return sink.getvalue()


def slides() -> bytes:
    deck = pptx.Presentation()
    for title in ("Hello", "World"):
        slide = deck.slides.add_slide(deck.slide_layouts[0])
        slide.shapes.title.text = title
    deck.slides[1].notes_slide.notes_text_frame.text = "say it aloud"
    sink = io.BytesIO()
    deck.save(sink)
    return sink.getvalue()


def sheets() -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Costs"
    sheet.append(["when", "what", "how much", None, True])
    sheet.append([DAY, "bread", 2.5])
    sheet["A5"] = datetime.date(2024, 12, 24)
    book.create_sheet("Empty")
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def test_pages_of_each_kind_come_with_their_names() -> None:
    found = read("a.pdf", "application/pdf", pdf(FOX, "Two\nlines" + FOX, scanned=True), Wanted(pictures=2))
    assert [(p.name, p.text) for p in found.pages] == [
        ("page 1", FOX),
        ("page 2", "Two\nlines" + FOX),
        ("page 3", ""),
    ]
    assert [p.picture is not None for p in found.pages] == [True, False, True]  # the scan first, then in order
    picture = Image.open(io.BytesIO(found.pages[2].picture or b""))
    assert max(picture.size) == 1024
    assert picture.getpixel((300, 600)) != (255, 255, 255)
    letters = read("a", "", word(), Wanted())
    assert [p.name for p in letters.pages] == ["page 1", "page 2"]
    assert letters.pages[0].text == "First page"
    assert letters.pages[1].text == "Second page\n| left | right |"
    deck = read("a", "", slides(), Wanted())
    assert [(p.name, p.text) for p in deck.pages] == [("slide 1", "Hello"), ("slide 2", "World\nNotes:\nsay it aloud")]
    book = read("a.xlsx", "", sheets(), Wanted())
    assert [p.name for p in book.pages] == ["sheet Costs", "sheet Empty"]
    assert book.pages[0].text == (
        "| when | what | how much |  | TRUE |\n| 2024-03-01 14:30 | bread | 2.5 |\n| 2024-12-24 |"
    )
    assert read("n.txt", "", "\ufeffZoë".encode(), Wanted()).pages[0].text == "Zoë"
    assert read("n.txt", "text/plain", "Zoë".encode("cp1252"), Wanted()).pages[0].text == "Zoë"
    assert read("n", "", "Zoë".encode("utf-16"), Wanted()).pages[0].text == "Zoë"


def test_what_does_not_fit_is_left_out_in_words() -> None:
    found = read("a.pdf", "", pdf(*(f"Page {n} " + "word " * 40 for n in range(1, 9))), Wanted(characters=700))
    assert [p.number for p in found.pages] == [1, 2, 3]
    assert found.total == 8
    assert "pages 4 to 8 are left out" in found.notes[0]
    one = read("a.pdf", "", pdf("word " * 50), Wanted(characters=100))
    assert len(one.pages[0].text) == 100
    assert one.notes == ("page 1 is cut",)
    large = read("a.txt", "", b"abc" * 500_000, Wanted(characters=10))  # more than a pipe holds
    assert large.notes == ("only the first 10 of 1,500,000 characters are here",)
    book = read("a.docx", "", word(), Wanted(characters=11))
    assert "page 2 and what follows are left out" in book.notes[0]


def _bomb() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(320_000_000))
    return sink.getvalue()


def _laughs() -> bytes:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 20}">' for n in range(1, 9))
    xml = f'<!DOCTYPE w [<!ENTITY a0 "ha">{entities}]><w><body><p><t>&a8;</t></p></body></w>'
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("word/document.xml", xml)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"%PDF-1.4 and no more", "can't be opened"),
        (b"PK\x03\x04nothing", "damaged"),
        (b"\xd0\xcf\x11\xe0" + bytes(100), "old Office file"),
        (b"\x00\x01\x02binary", "are not read here"),
        (_laughs, "damaged"),
        (_bomb, "too much when unpacked"),
    ],
    ids=["empty", "no-pdf", "no-zip", "ole", "binary", "laughs", "bomb"],
)
def test_files_that_cannot_be_read_say_why(data: Any, said: str) -> None:
    data = data if isinstance(data, bytes) else data()
    assert isinstance(data, bytes)
    with pytest.raises(FileError, match=said):
        read("x", "", data, Wanted())


def test_a_reader_that_never_ends_or_takes_all_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hangs = tmp_path / "hangs.py"
    hangs.write_text("import sys, time; sys.stdin.buffer.read(); time.sleep(60)")
    grows = tmp_path / "grows.py"
    grows.write_text("import sys; sys.stdin.buffer.read()\nx = []\nwhile True: x.append(bytearray(1 << 22))")
    for program, said in ((hangs, "longer than 0.5 s"), (grows, "more than 64 MiB")):
        monkeypatch.setattr(child, "_program", lambda program=program: (sys.executable, str(program)))
        with pytest.raises(FileError, match=said):
            read(program.name, "", b"x", Wanted(), seconds=0.5 if program == hangs else 60, memory=64 << 20)


def test_three_apis_read_the_same_file(http: httpx.Client) -> None:
    url = "data:application/pdf;base64," + base64.b64encode(pdf("The secret word is marmalade.")).decode()
    question = "What is the secret word?"
    file = {"type": "file", "file": {"filename": "note.pdf", "file_data": url}}
    text = {"type": "text", "text": question}
    chat = {"model": "starter", "max_tokens": 1, "messages": [{"role": "user", "content": [file, text]}]}
    by_chat = http.post("/v1/chat/completions", json=chat).json()["usage"]["prompt_tokens"]
    told = {"type": "text", "text": "[note.pdf, page 1 of 1]\nThe secret word is marmalade.\n"}
    plain = {"model": "starter", "max_tokens": 1, "messages": [{"role": "user", "content": [told, text]}]}
    without = http.post("/v1/chat/completions", json=plain).json()["usage"]["prompt_tokens"]
    assert by_chat >= without  # with a picture of the page where there is room for it
    item = {"type": "input_file", "filename": "note.pdf", "file_data": url}
    content = [item, {"type": "input_text", "text": question}]
    body = {"model": "starter", "max_output_tokens": 1, "store": False, "input": [{"role": "user", "content": content}]}
    assert http.post("/v1/responses", json=body).json()["usage"]["input_tokens"] == by_chat
    source = {"type": "base64", "media_type": "application/pdf", "data": url.partition(",")[2]}
    block = {"type": "document", "title": "note.pdf", "source": source}
    message = {"model": "starter", "max_tokens": 1, "messages": [{"role": "user", "content": [block, text]}]}
    usage = http.post("/v1/messages", json=message).json()["usage"]  # what was kept is counted apart there
    assert usage["input_tokens"] + (usage["cache_read_input_tokens"] or 0) == by_chat


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"file_id": "file-1"}, "no files are kept here"),
        ({"file_data": "https://example.org/a.pdf"}, "as a data URL"),
        ({"file_data": "data:application/zip;base64,UEs="}, "are not read here"),
        ({"file_data": "data:application/pdf;base64,!"}, "not valid base64"),
        ({"filename": "x"}, "file_data"),
    ],
    ids=["id", "address", "kind", "base64", "nothing"],
)
def test_what_is_no_file_is_refused_by_name(http: httpx.Client, file: dict[str, str], said: str) -> None:
    content = [{"type": "file", "file": file}]
    body = {"model": "starter", "messages": [{"role": "user", "content": content}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"].startswith("messages.0.content.0")
