"""A watched folder through a real service, sidecar and model: what appears, changes, is renamed and goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from host_api.app.documents.folder_notes import FolderNotes, KnownFile
from host_api.app.documents.folders import _found
from tests.support.documents import pdf
from tests.support.servers import wait_for


def test_a_folders_documents_are_found_and_follow_their_files(http: httpx.Client, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "dragon.txt").write_text("The zephyrdragon lives in a cave.")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing")
    made = http.post("/folders", json={"path": str(folder)})
    assert made.status_code == 201, made.text
    key = made.json()["id"]

    def names(query: str) -> list[str]:
        return [
            h["document"] for h in http.post("/search", json={"query": query, "limit": 5}).json() if query in h["text"]
        ]

    def entry() -> dict[str, Any]:
        return next(f for f in http.get("/folders").json() if f["id"] == key)

    def until(done: Callable[[], bool]) -> None:
        wait_for(done, 60)

    until(lambda: names("zephyrdragon") == ["dragon.txt"] and entry()["state"] == "watched")
    assert list(entry()["refused"]) == ["broken.pdf"]
    tasks = len(http.get("/tasks").json())
    (folder / "dragon.txt").rename(folder / "monster.txt")
    until(lambda: names("zephyrdragon") == ["monster.txt"])
    assert len(http.get("/tasks").json()) == tasks  # nothing was read again
    long = "ש" * 120 + ".pdf"  # 244 bytes, from right to left
    (folder / "deep").mkdir()
    (folder / "deep" / long).write_bytes(pdf([("The quillbasilisk sleeps.", [])]))
    until(lambda: names("quillbasilisk") == [long])
    (folder / "monster.txt").write_text("The vexgriffin flies.")
    until(lambda: names("vexgriffin") == ["monster.txt"] and names("zephyrdragon") == [])
    shutil.rmtree(folder / "deep")
    until(lambda: names("quillbasilisk") == [])
    assert http.post("/folders", json={"path": str(folder / "nothing")}).status_code == 422
    assert http.post("/folders", json={"path": "relative"}).status_code == 422
    assert http.post("/folders", json={"path": str(tmp_path)}).status_code == 409
    assert http.delete(f"/folders/{key}").status_code == 204
    assert names("vexgriffin") == []
    assert http.delete(f"/folders/{key}").status_code == 404


def test_a_document_of_two_names_is_told_with_both(http: httpx.Client) -> None:
    content = b"The twinhydra has two heads."
    first = http.post("/tasks/index", files={"file": ("first.txt", content)}).json()
    second = http.post("/tasks/index", files={"file": ("second.txt", content)}).json()
    other = http.post("/tasks/index", files={"file": ("first.txt", b"Another twinhydra.")}).json()
    assert (second["id"], second["duplicate"], other["duplicate"]) == (first["id"], True, False)

    def found() -> list[tuple[str, list[str]]]:
        hits = http.post("/search", json={"query": "twinhydra"}).json()
        return sorted((h["document"], h["also"]) for h in hits if "twinhydra" in h["text"])

    wait_for(lambda: found() == [("first.txt", []), ("first.txt", ["second.txt"])], 60)
    for task in (first, other):
        assert http.delete(f"/tasks/{task['id']}").status_code == 204


def test_a_folder_is_looked_through_without_what_is_no_document(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.TXT", "c.exe", ".hidden.txt", "~$lock.docx", "empty.txt", "sub/d.md", ".git/e.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"" if name == "empty.txt" else b"x")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.pdf")
    found = _found(str(tmp_path))
    assert found is not None
    assert sorted(found) == ["a.pdf", "b.TXT", "sub/d.md"]
    assert _found(str(tmp_path / "away")) is None


def test_names_of_any_bytes_are_noted(tmp_path: Path) -> None:
    notes = FolderNotes(tmp_path / "notes.sqlite3")
    assert notes.folders() == []
    folder = notes.add(str(tmp_path))
    for name in ("x" * 251 + ".txt", "דוח.pdf", b"caf\xe9.txt".decode("utf-8", "surrogateescape"), "sub/two.txt"):
        notes.note(folder.id, KnownFile(name, 1, 2, "d", "job", None))
        assert notes.files(folder.id)[name].name == name
    assert len(notes.names("job")) == 4
    notes.forget(folder.id, "sub/two.txt")
    assert len(notes.names("job")) == 3
    notes.remove(folder.id)
    assert notes.names("job") == []
