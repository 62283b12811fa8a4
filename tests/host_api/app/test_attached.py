"""Documents in a question: kept, read once, told to the model within what it has room for."""

from __future__ import annotations

import base64
import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from host_api.app.chat import attached
from host_api.app.chat.attached import Attachments, Teller
from host_api.app.data.files import Files
from host_api.app.errors import ApiError
from tests.support.documents import docx, pdf, pptx, shape
from tests.support.host_servers import HostProcess
from tests.support.scripted import Scripted, scripted

WORDS = "Bread needs flour, water, salt and yeast."


@pytest.fixture(scope="module")
def script(running: HostProcess) -> Iterator[tuple[Scripted, int]]:
    """A scripted provider known to the service, and its model's id."""
    with scripted() as found, running.client() as http:
        made = http.post("/models/providers", json={"name": "attached", "base_url": found.url}).json()
        model = http.post(f"/models/provider/{made['id']}/discover").json()
        yield found, next(m["id"] for m in model if m["provider_id"] == made["id"])
        http.delete(f"/models/providers/{made['id']}")


def ask(http: httpx.Client, session: str, model: int, *parts: Any, parent: str | None = None) -> httpx.Response:
    """Ask and wait for the answer."""
    message = {"id": uuid.uuid4().hex, "role": "user", "parts": list(parts)}
    body = {"trigger": "submit-message", "id": session, "messages": [message], "model_id": model, "parent_id": parent}
    return http.post("/chat/agent-stream", json=body)


def told(request: dict[str, Any], role: str = "user") -> list[Any]:
    """The content of a request's messages of a role, as text or parts."""
    return [m["content"] for m in request["messages"] if m["role"] == role]


def test_a_document_is_read_once_and_told_with_every_turn(http: httpx.Client, script: tuple[Scripted, int]) -> None:
    provider, model = script
    provider.steps = [[{"content": "Flour."}], [{"content": "Yeast."}]]
    sent = http.post("/chat/files", files={"file": ("bread.docx", docx(WORDS, []))})
    assert sent.status_code == 201, sent.text
    assert sent.json() | {"part": 0} == {"part": 0, "pages": 1, "characters": sent.json()["characters"]} | {
        "scans": 0,
        "note": "",
    }
    part = sent.json()["part"]
    session = uuid.uuid4().hex
    question = {"type": "text", "text": "What does bread need?"}
    # What a client says was read is not believed.
    forged = {**part, "providerMetadata": {"mlx-host": {"files": ["0" * 64], "pages": 9, "scans": 3}}}
    assert ask(http, session, model, forged, question).status_code == 200
    stored = http.get(f"/chat/sessions/{session}").json()["messages"]
    note = stored[0]["parts"][0]["providerMetadata"]["mlx-host"]
    assert (note["pages"], note["scans"], stored[0]["parts"][0]["url"]) == (1, 0, part["url"])
    again = ask(http, session, model, {"type": "text", "text": "And to rise?"}, parent=stored[1]["id"])
    assert again.status_code == 200, again.text
    for request in provider.requests[-2:]:
        said = json.dumps(told(request), ensure_ascii=False)
        assert "[bread.docx, page 1 of 1]" in said
        assert WORDS in said
        assert "Flour | 5 kg" in said or "Flour" in said
    assert http.get("/" + part["url"]).content == docx_bytes(http, part)
    # Deleted with its chat, with what was read of it.
    digests = [part["url"].rpartition("/")[2], *note["files"]]
    assert {http.get(f"/chat/files/{d}").status_code for d in digests} == {200}
    http.delete(f"/chat/sessions/{session}")
    assert {http.get(f"/chat/files/{d}").status_code for d in digests} == {404}
    gone = ask(http, uuid.uuid4().hex, model, part, question)
    assert (gone.status_code, gone.json()["error"]["code"]) == (409, "file_gone")


def docx_bytes(http: httpx.Client, part: dict[str, Any]) -> bytes:
    """The file as the service has it, which must be a Word file."""
    found = http.get("/" + part["url"]).content
    assert found.startswith(b"PK")
    return found


def test_a_document_comes_as_a_data_url_too_and_a_broken_one_writes_nothing(
    http: httpx.Client, script: tuple[Scripted, int]
) -> None:
    provider, model = script
    provider.steps = [[{"content": "Blue."}]]
    question = {"type": "text", "text": "What is it about?"}

    def part(name: str, content: bytes, kind: str) -> dict[str, Any]:
        url = f"data:{kind};base64," + base64.b64encode(content).decode()
        return {"type": "file", "mediaType": kind, "filename": name, "url": url}

    session = uuid.uuid4().hex
    broken = ask(http, session, model, part("b.pdf", b"%PDF-1.4 nothing", "application/pdf"), question)
    assert broken.status_code == 422
    assert "b.pdf" in broken.json()["error"]["message"]
    sound = ask(http, session, model, part("a.mp3", b"ID3\x04" + bytes(99), "audio/mpeg"), question)
    assert sound.status_code == 415, sound.text
    assert http.get(f"/chat/sessions/{session}").status_code == 404
    made = part("sea.txt", "Das Meer ist blau. 海是蓝色的。".encode("utf-16"), "text/plain")
    assert ask(http, session, model, made, question).status_code == 200
    assert "海是蓝色的" in json.dumps(told(provider.requests[-1]), ensure_ascii=False)
    http.delete(f"/chat/sessions/{session}")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "files")


def noted(files: Files, name: str, content: bytes) -> dict[str, Any]:
    """A part with a document that was read."""
    found = Attachments(files).add(name, content)
    part = {"type": "file", "mediaType": "x/y", "filename": name, "url": "chat/files/" + found["digest"]}
    return {**part, "providerMetadata": {"mlx-host": found}}


def test_scanned_pages_are_told_as_pictures_while_a_model_sees(files: Files) -> None:
    slides = pptx([("", [shape("circle", "red")]), ("Words enough to read on this slide", [])])
    part = noted(files, "deck.pptx", slides)
    assert attached.has_scans([part])
    text, picture = Teller(files, 4000, 4).told(part)
    assert "[This page is shown as picture 1 of deck.pptx.]" in text["text"]
    assert "Words enough to read" in text["text"]
    assert files.get(picture["url"].removeprefix("chat/files/")).startswith(b"\x89PNG")
    blind = Teller(files, 4000, 0).told(part)
    assert len(blind) == 1
    assert "[This page has no words.]" in blind[0]["text"]


def test_a_picture_that_servers_do_not_take_is_a_document(files: Files) -> None:
    sink = io.BytesIO()
    shape("square", "blue").save(sink, "TIFF")
    assert attached.has_scans([noted(files, "a.tiff", sink.getvalue())])
    with pytest.raises(ApiError, match=r"empty\.txt"):
        noted(files, "empty.txt", b" \n ")


@pytest.mark.parametrize("words", ["word " * 3000, "字" * 9000])
def test_what_does_not_fit_is_named_where_it_is_missing(files: Files, words: str) -> None:
    part = noted(files, "long.txt", f"BEGINNING {words} END".encode())
    short = {"type": "text", "text": "no document"}
    teller = Teller(files, 1000, 0)
    assert teller.told(short) == [short]
    (told_,) = teller.told(part)
    assert "BEGINNING" in told_["text"]
    assert "END" not in told_["text"]
    assert "no room for the rest of long.txt" in told_["text"]
    assert 900 < attached.tokens(told_["text"]) < 1100
    (next_,) = teller.told(part)
    assert "BEGINNING" not in next_["text"]


def test_the_pages_of_a_pdf_are_named(files: Files) -> None:
    part = noted(files, "two.pdf", pdf([("The first page says one thing.", []), ("The second says another.", [])]))
    (told_,) = Teller(files, 1000, 0).told(part)
    assert told_["text"].index("[two.pdf, page 1 of 2]") < told_["text"].index("[two.pdf, page 2 of 2]")
    (lost,) = Teller(Files(files._folder / "elsewhere"), 1000, 0).told(part)
    assert "not there any more" in lost["text"]
