"""Readers in their child: a file that takes it down costs that file, or that page, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from host_api.app import child
from host_api.app.documents import reading
from host_api.app.documents.content import Limits, Page
from host_api.app.errors import ApiError
from tests.support.documents import pdf, xlsx

PAGES = pdf([(f"Page {i}", [(255, 0, 0)]) for i in range(1, 6)])


def read(document: reading.Document) -> list[Page]:
    return list(document.pages())


def test_pages_come_out_of_the_child_as_they_were_read() -> None:
    document = reading.Document("x.pdf", PAGES, frozenset({2}))
    assert document.total == 5
    pages = read(document)
    assert [p.number for p in pages] == [1, 3, 4, 5]
    assert pages[0].text == "Page 1"
    assert pages[0].pictures[0].startswith(b"\x89PNG")


def test_a_refusal_keeps_its_words_and_names_the_file() -> None:
    with pytest.raises(ApiError) as caught:
        reading.check("x.bin", b"\0\1\2")
    assert (caught.value.status_code, caught.value.code) == (415, "document_unsupported")
    assert caught.value.message.startswith("x.bin: ")
    with pytest.raises(ApiError) as caught:
        reading.Document("x.pdf", b"%PDF-1.7 and nothing")
    assert caught.value.status_code == 422


def crashing(name: str, content: bytes, skip: list[int], limits: dict[str, int]):  # type: ignore[no-untyped-def]
    """Read as the product does, but die on page 3, as native code may."""
    import os

    for message in reading.streamed(name, content, skip, limits):
        if message.get("number") == 3:
            os._exit(139)
        yield message


def test_a_page_that_takes_the_child_down_costs_that_page(monkeypatch: pytest.MonkeyPatch) -> None:
    began = child.stream

    def stream(function: str, *arguments: object, limits: child.Limits | None = None):  # type: ignore[no-untyped-def]
        return began(f"{__name__}:crashing", *arguments, limits=limits)

    monkeypatch.setattr(child, "stream", stream)
    document = reading.Document("x.pdf", PAGES)
    assert [p.number for p in read(document)] == [1, 2, 4, 5]
    assert len(document.notes) == 1
    assert document.notes[0].startswith("page 3 can't be read")


def test_a_file_beyond_its_limits_fails_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHILD", child.Limits(memory_mb=40, seconds=60.0))
    with pytest.raises(ApiError) as caught:
        read(reading.Document("x.xlsx", xlsx({"S": [("a", i) for i in range(3000)]})))
    assert (caught.value.status_code, caught.value.code) == (422, "document_too_large")
    monkeypatch.undo()
    document = reading.Document("x.xlsx", xlsx({"S": [("a", i) for i in range(3000)]}), limits=Limits(cells=100))
    read(document)
    assert any("row 50" in note for note in document.notes)


def test_names_of_any_kind_stand_in_sentences() -> None:
    assert reading.shown_name("plain.pdf") == "plain.pdf"
    assert reading.shown_name("דוח.pdf") == "\u2068דוח.pdf\u2069"
    assert "\u202e" not in reading.shown_name("invoice\u202efdp.exe")


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    source = reading.Document("x.pdf", PAGES)
    next(iter(source.pages()))
    source.close()
    assert list(tmp_path.iterdir()) == []
