"""Word, PowerPoint, Excel and OpenDocument files: what their programs show, hidden things marked."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import parse_xml
from openpyxl.chart import BarChart, Reference
from openpyxl.comments import Comment
from PIL import Image
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from host_api.app.documents import readers
from host_api.app.documents.content import DocumentError, Kind, Limits, Page
from tests.support.documents import png, shape

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
BOX = (
    f'<w:p {W} xmlns:v="urn:schemas-microsoft-com:vml"><w:r><w:pict><v:shape><v:textbox><w:txbxContent><w:p><w:r>'
    "<w:t>In the box</w:t></w:r></w:p></w:txbxContent></v:textbox></v:shape></w:pict></w:r></w:p>"
)


def saved(made: Any) -> bytes:
    sink = io.BytesIO()
    made.save(sink)
    return sink.getvalue()


def with_parts(content: bytes, parts: dict[str, str], edits: dict[str, tuple[str, str]]) -> bytes:
    """Return an Office file with more parts, and with texts replaced in parts that it has."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            data = old.read(name).decode("utf-8", "surrogateescape")
            if name in edits:
                assert edits[name][0] in data, name
                data = data.replace(*edits[name], 1)
            new.writestr(name, data.encode("utf-8", "surrogateescape"))
        for name, text in parts.items():
            new.writestr(name, text)
    return sink.getvalue()


def only(name: str, content: bytes) -> Page:
    (page,) = readers.pages(name, content)
    return page


REL = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def test_a_word_file_has_headers_text_boxes_footnotes_comments_and_marked_hidden_text() -> None:
    made = docx.Document()
    made.sections[0].header.paragraphs[0].text = "Confidential"
    made.sections[0].footer.paragraphs[0].text = "Page foot"
    made.add_heading("Report", 1)
    paragraph = made.add_paragraph("Seen text")
    made.add_comment(paragraph.runs, text="Is this right?", author="Ada")
    hidden = made.add_paragraph().add_run("secret clause")
    hidden.font.hidden = True
    made.element.body.insert(3, parse_xml(BOX))
    reference = parse_xml(f'<w:r {W}><w:footnoteReference w:id="2"/></w:r>')
    paragraph._p.append(reference)
    parts = {
        "word/footnotes.xml": f'<w:footnotes {W}><w:footnote w:id="2"><w:p><w:r><w:t>See the almanac.</w:t></w:r></w:p>'
        "</w:footnote></w:footnotes>"
    }
    link = f'<Relationship Id="rIdF" Type="{REL}/footnotes" Target="footnotes.xml"/></Relationships>'
    content = with_parts(saved(made), parts, {"word/_rels/document.xml.rels": ("</Relationships>", link)})
    text = only("x.docx", content).text
    for words in ("[header: Confidential]", "[footer: Page foot]", "In the box", "[footnote: See the almanac.]"):
        assert words in text
    assert "[comment: Ada: Is this right?]" in text
    assert "[hidden: secret clause]" in text
    assert text.index("Seen text") < text.index("See the almanac") < text.index("[hidden")


def test_a_word_table_stays_a_table_with_merged_cells_in_every_row() -> None:
    made = docx.Document()
    table = made.add_table(4, 3)
    for y, row in enumerate(
        (("Region", "City", "Sales"), ("North", "Oslo", "5"), ("", "Bergen", "7"), ("South", "Rome", "9"))
    ):
        for x, words in enumerate(row):
            table.cell(y, x).text = words
    table.cell(1, 0).merge(table.cell(2, 0))
    (block,) = (b for b in only("x.docx", saved(made)).blocks if b.kind == Kind.TABLE)
    assert block.rows[2] == ("North", "Bergen", "7")
    assert "Region: North; City: Bergen; Sales: 7" in only("x.docx", saved(made)).text


def test_word_pages_are_those_the_author_broke_and_headings_go_on() -> None:
    made = docx.Document()
    made.add_heading("Chapter one", 1)
    made.add_paragraph("Alpha")
    made.add_page_break()  # type: ignore[no-untyped-call]
    made.add_paragraph("Beta")
    made.add_picture(io.BytesIO(png(shape("circle", "red"))))
    first, second = readers.pages("x.docx", saved(made))
    assert (first.text, second.text) == ("Chapter one\nAlpha", "Beta")
    assert second.path == ("Chapter one",)
    assert len(second.pictures) == 1


def test_deleted_text_is_gone_and_inserted_text_is_there() -> None:
    made = docx.Document()
    paragraph = made.add_paragraph("Pay ")._p
    paragraph.append(parse_xml(f"<w:del {W} w:id='1'><w:r><w:delText>five</w:delText></w:r></w:del>"))
    paragraph.append(parse_xml(f"<w:ins {W} w:id='2'><w:r><w:t>seven</w:t></w:r></w:ins>"))
    assert only("x.docx", saved(made)).text == "Pay seven"


def test_pictures_of_office_files_are_cropped_turned_and_say_their_alt_text() -> None:
    half = Image.new("RGB", (200, 100), "white")
    half.paste((255, 0, 0), (0, 0, 100, 100))
    made = pptx.Presentation()
    slide = made.slides.add_slide(made.slide_layouts[6])
    picture = slide.shapes.add_picture(io.BytesIO(png(half)), 0, 0)
    picture.crop_right = 0.5
    picture._element.nvPicPr.cNvPr.set("descr", "A red field")
    turned = slide.shapes.add_picture(io.BytesIO(png(half)), Inches(3), 0)
    turned.rotation = 90
    page = only("x.pptx", saved(made))
    crop, turn = (Image.open(io.BytesIO(p)) for p in page.pictures)
    assert crop.size == (100, 100)
    assert crop.getextrema() == ((255, 255), (0, 0), (0, 0))
    assert turn.size == (100, 200)
    assert turn.getpixel((50, 10)) == (255, 0, 0)  # the left is on top after a quarter turn clockwise
    assert "A red field" in page.text


def test_a_slide_has_notes_tables_charts_and_hidden_slides_are_marked() -> None:
    made = pptx.Presentation()
    slide = made.slides.add_slide(made.slide_layouts[5])
    slide.shapes.title.text = "Quarter"
    slide.notes_slide.notes_text_frame.text = "Ask about the zeppelin"
    grid = slide.shapes.add_table(3, 2, 0, Inches(2), Inches(4), Inches(1)).table
    for y, row in enumerate((("Item", "Kg"), ("Flour", "5"), ("Salt", "1"))):
        for x, words in enumerate(row):
            grid.cell(y, x).text = words
    data = CategoryChartData()  # type: ignore[no-untyped-call]
    data.categories = ["East", "West"]
    data.add_series("Apples", (3, 4.5))  # type: ignore[no-untyped-call]
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(3), Inches(3), data)
    slide._element.set("show", "0")
    page = only("x.pptx", saved(made))
    for words in ("zeppelin", "Item: Salt; Kg: 1", "category: East; Apples: 3", "[hidden: this slide isn't shown]"):
        assert words in page.text, page.text
    assert page.blocks[1].kind == Kind.HEADING


def test_a_sheet_shows_dates_per_cents_and_money_as_excel_does() -> None:
    import datetime

    made = openpyxl.Workbook()
    sheet = made.active
    assert sheet is not None
    rows = [
        ("B1", datetime.datetime(2024, 3, 1), "dd.mm.yyyy", "01.03.2024"),
        ("B2", 0.256, "0.0%", "25.6%"),
        ("B3", 1234.5, '#,##0.00 "€"', "1,234.50 €"),
        ("B4", 0.75, "h:mm", "18:00"),
        ("B5", -5, "0;(0)", "(5)"),
        ("B6", 7, "000", "007"),
        ("B7", datetime.datetime(2024, 3, 1, 16, 5), "yyyy-mm-dd hh:mm", "2024-03-01 16:05"),
        ("B8", 1.5, "[h]:mm", "36:00"),
        ("B9", 3.25, "General", "3.25"),
        ("B10", 1500000, '0.0,,"M"', "1.5 M"),
    ]
    for i, (place, value, form, _) in enumerate(rows, 1):
        sheet[f"A{i}"] = f"row {i}"
        sheet[place] = value
        sheet[place].number_format = form
    text = only("x.xlsx", saved(made)).text
    for i, (_, _, form, shown) in enumerate(rows, 1):
        assert re.search(rf"row {i}\b.*?{re.escape(shown)}$", text, re.MULTILINE), (form, shown, text)


def test_a_sheet_has_comments_hidden_rows_merged_cells_formulas_and_its_charts_data() -> None:
    made = openpyxl.Workbook()
    sheet = made.active
    assert sheet is not None
    sheet.title = "Lager"
    for row in (
        ("Region", "Town", "Kg"),
        ("North", "Oslo", 5),
        (None, "Bergen", 7),
        ("South", "Rome", 9),
        ("", "", "=SUM(C2:C4)"),
    ):
        sheet.append(row)
    sheet.merge_cells("A2:A3")
    sheet["C2"].comment = Comment("counted twice", "Ada")
    sheet.row_dimensions[4].hidden = True
    chart = BarChart()
    chart.add_data(Reference(sheet, min_col=3, min_row=1, max_row=3), titles_from_data=True)
    sheet.add_chart(chart, "E2")
    hidden = made.create_sheet("Salaries")
    hidden["A1"] = "Ada 5000"
    hidden.sheet_state = "hidden"
    first, second = readers.pages("x.xlsx", saved(made))
    for words in ("Region: North; Town: Bergen; Kg: 7", "[comment on C2: ", "counted twice", "=SUM(C2:C4)", "[chart: "):
        assert words in first.text, first.text
    assert "[hidden rows: South, Rome, 9]" in first.text
    assert second.text.startswith("Salaries\n[hidden: this sheet isn't shown]")
    assert first.label == "Lager"


def test_one_far_cell_is_one_cell_and_rows_keep_their_numbers() -> None:
    made = openpyxl.Workbook()
    sheet = made.active
    assert sheet is not None
    sheet["A1"] = "near"
    sheet["XFD1048576"] = "far"
    page = only("x.xlsx", saved(made))
    assert page.text.splitlines()[1:] == ["near", "far"]
    assert [b.first_row for b in page.blocks if b.kind == Kind.TABLE] == [1, 1048576]


def test_a_sheet_of_many_rows_is_read_to_its_limit_and_says_so() -> None:
    rows = "".join(f'<row r="{n}"><c r="A{n}"><v>{n}</v></c><c r="B{n}"><v>1</v></c></row>' for n in range(1, 20_001))
    made = openpyxl.Workbook()
    content = with_parts(
        saved(made), {}, {"xl/worksheets/sheet1.xml": ("<sheetData></sheetData>", f"<sheetData>{rows}</sheetData>")}
    )
    reading = readers.read("x.xlsx", content, Limits(cells=1000))
    (page,) = reading.pages
    assert sum(len(b.rows) for b in page.blocks) == 500
    assert any("up to row 500" in note for note in reading.notes)


def test_a_zip_that_says_too_much_or_is_no_document_is_refused() -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("word/document.xml", b"0" * 5_000_000)
    with pytest.raises(DocumentError, match="5 MB") as caught:
        readers.read("x.docx", sink.getvalue(), Limits(unpacked=1_000_000))
    assert caught.value.code == "document_too_large"
    with pytest.raises(DocumentError, match="unpack it"):
        readers.read("x.zip", sink.getvalue())


def test_encrypted_files_are_said_to_be_so() -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "EncryptedPackage".encode("utf-16-le") + bytes(200)
    with pytest.raises(DocumentError, match="encrypted"):
        readers.read("x.docx", ole)
    manifest = '<manifest xmlns="m"><file-entry><encryption-data/></file-entry></manifest>'
    content = odf("text", "<p/>", {"META-INF/manifest.xml": manifest})
    with pytest.raises(DocumentError, match="encrypted"):
        readers.read("x.odt", content)


def odf(kind: str, body: str, parts: dict[str, str | bytes] | None = None) -> bytes:
    """Return an OpenDocument file with this body."""
    names = "urn:oasis:names:tc:opendocument:xmlns"
    spaces = " ".join(
        f'xmlns:{s}="{names}:{f}"' for s, f in (("office", "office:1.0"), ("text", "text:1.0"), ("table", "table:1.0"))
    )
    spaces += (
        f' xmlns:draw="{names}:drawing:1.0" xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:dc="http://purl.org/dc/"'
    )
    spaces += f' xmlns:svg="{names}:svg:1.0"'
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("mimetype", f"application/vnd.oasis.opendocument.{kind}")
        root = f"<office:document-content {spaces}><office:body><office:{kind}>{body}</office:{kind}></office:body>"
        file.writestr("content.xml", root + "</office:document-content>")
        for name, data in (parts or {}).items():
            file.writestr(name, data)
    return sink.getvalue()


def test_an_opendocument_text_has_headings_notes_comments_and_pictures() -> None:
    body = (
        '<text:h text:outline-level="2">Plan</text:h><text:p>Sow<text:s text:c="2"/>early.'
        '<text:note text:note-class="footnote"><text:note-body><text:p>In March.</text:p></text:note-body></text:note>'
        "<office:annotation><dc:creator>Ada</dc:creator><text:p>Really?</text:p></office:annotation>"
        '<draw:frame><draw:image xlink:href="Pictures/a.png"/><svg:desc>A red disc</svg:desc></draw:frame></text:p>'
    )
    page = only("x.odt", odf("text", body, {"Pictures/a.png": png(shape("circle", "red"))}))
    assert page.blocks[0].kind == Kind.HEADING
    assert page.text.splitlines()[1] == "Sow early."
    for words in ("[footnote: In March.]", "[comment: Ada: Really?]", "A red disc"):
        assert words in page.text
    assert len(page.pictures) == 1


def test_an_opendocument_sheet_takes_repeated_cells_as_filling() -> None:
    cell = "<table:table-cell><text:p>{}</text:p></table:table-cell>"
    rows = "".join(
        f"<table:table-row>{''.join(map(cell.format, r))}</table:table-row>" for r in (("Item", "Kg"), ("Flour", "5"))
    )
    many = '<table:table-cell table:number-columns-repeated="16384"/>'
    filling = f'<table:table-row table:number-rows-repeated="1048000">{many}</table:table-row>'
    page = only("x.ods", odf("spreadsheet", f'<table:table table:name="Stock">{rows}{filling}</table:table>'))
    assert page.text.splitlines() == ["Stock", "Item, Kg", "Flour, 5"]


def test_damaged_office_files_fail_in_words_and_never_otherwise() -> None:
    import random

    made = docx.Document()
    made.add_paragraph("words " * 50)
    book = openpyxl.Workbook()
    slides = pptx.Presentation()
    slides.slides.add_slide(slides.slide_layouts[0])
    dice = random.Random(7)
    for name, whole in (("x.docx", saved(made)), ("x.xlsx", saved(book)), ("x.pptx", saved(slides))):
        for _ in range(30):
            broken = bytearray(whole)
            for _ in range(dice.randint(1, 40)):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            try:
                assert readers.text_of(name, bytes(broken[: dice.randint(1, len(broken))])) is not None
            except DocumentError:
                continue
