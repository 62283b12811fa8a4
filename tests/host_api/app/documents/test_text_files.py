"""Text, tables, mails, e-books, web pages and pictures as files: what a reader of them expects."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from host_api.app.documents import readers
from host_api.app.documents.content import DocumentError, Kind, Limits
from host_api.app.documents.readers import text as texts
from tests.support.documents import png, shape


def words(name: str, content: bytes | str) -> str:
    return readers.text_of(name, content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Grüße aus Köln", "utf-16"),
        ("Grüße aus Köln", "utf-16-le"),
        ("Grüße aus Köln!", "utf-16-be"),
        ("Grüße aus Köln", "utf-32"),
        ("名称,价格\n苹果,5", "utf-16"),
        ("Grüße aus Köln", "utf-8-sig"),
    ],
)
def test_unicode_is_certain(text: str, encoding: str) -> None:
    found, note = texts.decode(text.encode(encoding))
    assert (found.replace("\r", ""), note) == (text, "")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    [
        "中国的首都是北京，这里有很多人。",
        "产品,数量\n苹果,3\n",
        "我們今天學習語言文字，這裡有很多人",
        "パンには酵母が必要です。",
        "빵에는 효모가 필요합니다",
        "Хлеб требует дрожжей.",
        "الخبز يحتاج إلى الخميرة",
        "a 😀 and b 😀",
    ],
)
def test_utf_16_without_a_mark_is_read_or_refused_and_never_other_words(text: str, encoding: str) -> None:
    assert words("a.txt", text.encode(encoding)) == text.strip()
    with pytest.raises(DocumentError, match="encoding can't be told"):
        words("a.txt", "张伟李娜王芳".encode(encoding))  # rare signs alone


@given(st.binary(min_size=4, max_size=64))
def test_binary_data_is_not_taken_for_utf_16(content: bytes) -> None:
    for own in (b"\x7fELF\x02\x01\x01" + bytes(9) + content, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + content):
        with pytest.raises(DocumentError):
            texts.decode(own)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("名称,价格\n苹果,5", "gbk"),
        ("姓名：张三\n地址：北京市海淀区中关村", "gb18030"),
        ("Thing,Place,Year\n游泳馆,温州,1962\n", "gb18030"),
        ("Thing,Place,Year\n拖拉机,杭州,1962\n", "gb18030"),
        ("Thing,Place,Year\n图书馆,海口,1962\n", "gb18030"),
        ("繁體中文測試", "big5"),
        ("名稱,價格\n蘋果,5", "big5"),
        ("これは日本語のテキストです。", "shift_jis"),
        ("価格表\nりんご,100円", "euc_jp"),
        ("가격표\n사과,500원", "euc-kr"),
        ("Привет, как дела? Это письмо.", "cp1251"),
        ("Привет, как дела?", "koi8-r"),
        ("Grüße", "latin-1"),
        ("“Smart” – naïve café, 50 €", "cp1252"),
        ("Příliš žluťoučký kůň", "cp1250"),
        ("Ελληνικά κείμενο", "cp1253"),
    ],
)
def test_code_pages_are_guessed_and_said_to_be(text: str, encoding: str) -> None:
    found, note = texts.decode(text.encode(encoding))
    assert found == text
    assert "guessed" in note


def test_what_is_no_text_is_refused() -> None:
    for content in (bytes(range(128, 256)) * 20, b"\x81\x00\x02\x03" * 50, b"MZ\x90\0\x03"):
        with pytest.raises(DocumentError) as caught:
            texts.decode(content)
        assert caught.value.status_code == 415


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=200))
def test_every_text_in_utf8_comes_back(text: str) -> None:
    content = text.encode("utf-8", "surrogatepass")
    if b"\0" in content or content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return
    assert texts.decode(content)[0] == text.removeprefix("\ufeff")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "Item;Kg\nFlour;5,5\nSalt;1"),
        ("a.csv", "sep=;\nItem;Kg\nFlour;5,5\nSalt;1"),
        ("a.tsv", "Item\tKg\nFlour\t5,5\nSalt\t1"),
        ("a.csv", 'Item,Kg\n"Flour","5,5"\nSalt,1'),
        ("a.csv", "Item|Kg\nFlour|5,5\nSalt|1\n"),
    ],
)
def test_tables_are_read_by_their_own_separator(name: str, content: str) -> None:
    assert words(name, content).splitlines()[1] == "Item: Flour; Kg: 5,5"


def test_json_yaml_and_notebooks_say_what_stands_where() -> None:
    assert words(
        "a.json", json.dumps({"name": "Ada", "pets": [{"kind": "cat"}, {"kind": "dog"}], "tags": ["a", "b"]})
    ) == ("name: Ada\npets[1].kind: cat\npets[2].kind: dog\ntags: a, b")
    rows = [{"item": "Flour", "kg": 5}, {"item": "Salt", "kg": 1}]
    assert "item: Salt; kg: 1" in words("a.json", json.dumps(rows))
    assert "item: Salt; kg: 1" in words("a.jsonl", "\n".join(map(json.dumps, rows)))
    assert words("a.json", "{not json: café}") == "{not json: café}"
    assert words("a.json", "[" * 3000 + "]" * 3000) is not None
    assert words("a.yaml", "a: 1\nb: [2, 3]") == "a: 1\nb: [2, 3]"
    cells = [{"cell_type": "markdown", "source": ["# Title\n", "text"]}, {"cell_type": "code", "source": "x = 1"}]
    assert words("a.ipynb", json.dumps({"nbformat": 4, "cells": cells})) == "Title\ntext\nx = 1"
    assert words("server.log", "10:00 started\n10:01 ended") == "10:00 started\n10:01 ended"


def test_markdown_has_headings_tables_and_code_as_written() -> None:
    source = "# Top\n\nIntro\nSub\n---\n\n| Item | Kg |\n| --- | --: |\n| Flour | 5 |\n| Salt | 1 |\n"
    source += "\n```\n# no heading\n```\n"
    (page,) = readers.pages("a.md", source.encode())
    assert [(b.kind, b.level) for b in page.blocks if b.kind == Kind.HEADING] == [(Kind.HEADING, 1), (Kind.HEADING, 2)]
    assert "Item: Salt; Kg: 1" in page.text
    assert "# no heading" in page.text


def mail(**parts: Any) -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Harvest — Ernte", "Ada <ada@example.org>", "bob@example.org"
    message.set_content(parts.get("plain", "The harvest is in."))
    return message


def test_a_mail_says_who_wrote_what_and_what_is_attached() -> None:
    message = mail()
    message.add_alternative("<p>The <b>harvest</b> is in.</p><img src='cid:pic'>", subtype="html")
    html = message.get_payload()[1]  # type: ignore[index]
    html.add_related(png(shape("circle", "red")), "image", "png", cid="<pic>")  # type: ignore[union-attr]
    message.add_attachment(b"%PDF-1.4", maintype="application", subtype="pdf", filename="Rechnung März.pdf")
    (page,) = readers.pages("a.eml", bytes(message))
    for part in (
        "Harvest — Ernte",
        "From: Ada <ada@example.org>",
        "The harvest is in.",
        "[attached: Rechnung März.pdf]",
    ):
        assert part in page.text
    assert len(page.pictures) == 1
    assert "The harvest is in." in words("a.eml", bytes(mail()))
    plain = b"Subject: =?gb2312?B?xOO6ww==?=\r\nContent-Type: text/plain; charset=gb2312\r\n\r\n" + "你好".encode("gbk")
    assert "你好\n你好" in words("a.eml", plain).replace("\n\n", "\n")
    with pytest.raises(DocumentError):
        words("a.eml", b"\n\nno headers at all")


def test_rich_text_in_its_code_page_with_its_picture() -> None:
    picture = png(shape("square", "blue")).hex()
    source = rf"{{\rtf1\ansi\ansicpg1251 \'cf\'f0\'e8\'e2\'e5\'f2\par second \u8364? line{{\pict\pngblip {picture}}}}}"
    (page,) = readers.pages("a.rtf", source.encode())
    assert page.text.splitlines()[:2] == ["Привет", "second € line"]
    assert len(page.pictures) == 1
    assert words("letter.doc", source.encode()).startswith("Привет")  # told by its content


def epub(**parts: str | bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("mimetype", "application/epub+zip")
        file.writestr(
            "META-INF/container.xml", '<container><rootfiles><rootfile full-path="O/b.opf"/></rootfiles></container>'
        )
        items = "".join(f'<item id="{n}" href="{n}.xhtml"/>' for n in ("two", "one"))
        order = '<spine><itemref idref="one"/><itemref idref="two"/></spine>'
        file.writestr(
            "O/b.opf",
            f"<package><metadata><title>Almanac</title></metadata><manifest>{items}</manifest>{order}</package>",
        )
        file.writestr(
            "O/one.xhtml", "<html><body><h1>Spring</h1><p>Sow.</p><img src='i/a.png' alt='a disc'/></body></html>"
        )
        file.writestr("O/two.xhtml", "<html><body><h1>Autumn</h1><p>Reap.</p></body></html>")
        file.writestr("O/i/a.png", png(shape("circle", "red")))
        for name, data in parts.items():
            file.writestr(name.replace("__", "/"), data)
    return sink.getvalue()


def test_an_ebook_has_its_chapters_in_order() -> None:
    one, two = readers.pages("a.epub", epub())
    assert one.text == "Almanac\nSpring\nSow.\na disc"
    assert (two.text, len(one.pictures)) == ("Autumn\nReap.", 1)
    rights = '<encryption><EncryptedData><EncryptionMethod Algorithm="http://ns.adobe.com/adept"/></EncryptedData></encryption>'
    with pytest.raises(DocumentError, match="encrypted"):
        words("a.epub", epub(**{"META-INF__encryption.xml": rights}))


def test_a_web_page_is_its_content_in_its_charset() -> None:
    html = (
        "<html><head><meta charset='windows-1251'><title>Новости</title></head><body><nav><a href=x>Меню</a></nav>"
        "<header>Сайт</header><main><h1>Привет</h1><p>Текст<p hidden>скрыто</p></main><aside>реклама</aside>"
        "<footer>(c)</footer><script>x()</script></body></html>"
    )
    text = words("a.html", html.encode("cp1251"))
    assert text == "Новости\nПривет\nТекст"
    assert words("a.html", "<nav><p>Only this</p></nav>") == "Only this"
    assert words("a.html", "<p>a<b>b</b>c<br>d</p><ul><li>x<li>y</ul>") == "abc\nd\n- x\n- y"
    assert words("page", "<!DOCTYPE html><p>told by its content") == "told by its content"
    assert words("a.html", "<div>" * 3000 + "deep") == "deep"


def test_a_web_table_keeps_its_rows_and_spans_and_inline_drawings_are_pictures() -> None:
    html = "<table><tr><th>Region<th>Town<th>Kg<tr><td rowspan=2>North<td>Oslo<td>5<tr><td>Bergen<td>7</table>"
    assert "Region: North; Town: Bergen; Kg: 7" in words("a.html", html)
    drawing = (
        '<svg width="200" height="100"><rect width="200" height="100" fill="red"/><title>Red field</title>'
        + "<g/>" * 40
    )
    (page,) = readers.pages("a.html", f"<p>x</p>{drawing}</svg>".encode())
    assert len(page.pictures) == 1
    assert "Red field" in page.text
    data = base64.b64encode(png(shape("circle", "red"))).decode()
    (page,) = readers.pages(
        "a.html", f"<img alt='A disc' src='data:image/png;base64,{data}'><img alt='gone' src='x.png'>".encode()
    )
    assert (len(page.pictures), page.text) == (1, "A disc\n[picture: gone]")


SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="50"><title>Flag</title>'
    b'<rect width="50" height="50" fill="red"/><text y="40">Norge</text></svg>'
)


def test_an_svg_is_drawn_over_white_packed_or_not() -> None:
    for name, content in (("a.svg", SVG), ("a.svgz", gzip.compress(SVG)), ("a.svg", b"<?xml version='1.0'?>" + SVG)):
        (page,) = readers.pages(name, content)
        image = Image.open(io.BytesIO(page.pictures[0]))
        assert image.width == 2 * image.height
        assert image.getpixel((10, 10)) == (255, 0, 0)
        assert image.getpixel((image.width - 10, 10)) == (255, 255, 255)
        assert page.text == "Norge\nFlag"
    with pytest.raises(DocumentError, match="SVG"):
        words("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='0' height='0'/>")


def test_an_svg_reads_no_file_of_the_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (50, 50), "red").save(secret)
    root = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="50" height="50">'
    source = f'{root}<image xlink:href="{secret}" width="50" height="50"/><image href="file://{secret}"/></svg>'
    (page,) = readers.pages("a.svg", source.encode())
    assert Image.open(io.BytesIO(page.pictures[0])).getextrema() == ((255, 255), (255, 255), (255, 255))


def test_every_page_of_a_tiff_is_a_page() -> None:
    frames = [Image.new("RGB", (900, 600), c) for c in ("red", "lime", "blue")]
    sink = io.BytesIO()
    frames[0].save(sink, "TIFF", save_all=True, append_images=frames[1:])
    pages = list(readers.pages("fax.tif", sink.getvalue()))
    assert [Image.open(io.BytesIO(p.pictures[0])).getpixel((9, 9)) for p in pages] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    ]
    assert readers.read("photo", png(shape("circle", "red"))).total == 1  # told by its content


def test_a_picture_beyond_the_limit_is_refused_in_words() -> None:
    with pytest.raises(DocumentError, match="megapixels"):
        readers.read("a.png", png(Image.new("RGB", (300, 300))), Limits(pixels=10_000))
