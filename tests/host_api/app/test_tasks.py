"""Tagging, indexing and search through a real service, sidecar, models and vector store."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.host_api.app.test_chat import PARIS, STORY, body, chat, chunks, text, user
from tests.support.documents import docx, pdf, png, pptx, shape, xlsx
from tests.support.host_servers import HostProcess, host
from tests.support.scripted import Scripted, scripted
from tests.support.servers import wait_for

RED, BLUE, GREEN = shape("circle", "red"), shape("square", "blue"), shape("triangle", "green")
PAGES: list[tuple[str, list[Image.Image]]] = [
    ("The dragon lives in a cave on the mountain.", [RED]),
    ("Bread is baked from flour, water and yeast.", [BLUE]),
    ("The stock market fell after the bank raised interest rates.", [GREEN]),
]
SEEN = {1: "red circle", 2: "blue square", 3: "green triangle"}


def finished(http: httpx.Client, task_id: str, timeout: float = 120) -> dict[str, Any]:
    end = time.monotonic() + timeout
    while (task := http.get(f"/tasks/{task_id}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < end, task
        time.sleep(0.05)
    found: dict[str, Any] = task
    return found


def upload(http: httpx.Client, path: str, name: str, content: bytes) -> httpx.Response:
    return http.post(path, files={"file": (name, content)})


def give(http: httpx.Client, **models: str | None) -> None:
    known = {m["name"]: m["id"] for m in http.post("/models/provider/builtin/discover").json()}
    for capability, model in models.items():
        body = {"model_id": known[model] if model else None}
        assert http.post(f"/models/global_capability/{capability}?wait=false", json=body).status_code == 200


def test_a_text_is_tagged_by_the_schema_once(http: httpx.Client) -> None:
    body = {"text": "Paris is the capital of France and a city of art and food."}
    first = http.post("/tasks/tag", json=body)
    assert first.status_code == 202
    task = finished(http, first.json()["id"])
    assert task["state"] == "done", task
    tags = task["result"]["tags"]
    assert tags
    assert tags == [t.casefold() for t in dict.fromkeys(tags)]
    again = http.post("/tasks/tag", json=body)
    assert (again.status_code, again.json()["duplicate"], again.json()["id"]) == (200, True, task["id"])


def test_a_file_is_tagged(http: httpx.Client) -> None:
    task = finished(http, upload(http, "/tasks/tag", "bread.pdf", pdf(PAGES[1:2])).json()["id"])
    assert task["state"] == "done", task
    assert task["name"] == "bread.pdf"


def test_what_cannot_be_queued_is_refused_in_words(http: httpx.Client) -> None:
    assert http.post("/tasks/tag", json={}).status_code == 422
    assert http.post("/tasks/index", json={}).status_code == 422
    assert upload(http, "/tasks/index", "x.txt", b"").status_code == 422
    assert upload(http, "/tasks/index", "x.bin", b"\0\1").status_code == 415
    assert upload(http, "/tasks/index", "x.pdf", b"%PDF-1.7").status_code == 422
    give(http, embedding=None)
    none = upload(http, "/tasks/index", "x.txt", b"text")
    refused = http.post("/search", json={"query": "x"})
    give(http, embedding="starter-embedding")
    assert (none.status_code, none.json()["error"]["code"]) == (409, "capability_unassigned")
    assert refused.status_code == 409
    for call in (http.get("/tasks/none"), http.get("/tasks/none/events"), http.post("/tasks/none/cancel")):
        assert call.status_code == 404


def test_a_pdf_is_indexed_and_found_with_page_and_picture(http: httpx.Client) -> None:
    made = upload(http, "/tasks/index", "three.pdf", pdf(PAGES)).json()
    seen = []
    with http.stream("GET", f"/tasks/{made['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert seen[-1]["state"] == "done", seen[-1]
    result = seen[-1]["result"]
    assert (result["pages"], result["pictures"], result["described"]) == (3, 3, 3)
    assert [e["done"] for e in seen] == sorted(e["done"] for e in seen)
    assert seen[-1]["total"] == 3
    for query, page in (("monster in the hills", 1), ("making food in an oven", 2), ("economy and finance", 3)):
        best = http.post("/search", json={"query": query, "limit": 1}).json()[0]
        assert (best["document"], best["page"]) == ("three.pdf", page), best
    for page, words in SEEN.items():
        best = http.post("/search", json={"query": f"a picture of a {words}", "limit": 1}).json()[0]
        assert (best["page"], best["pictures"]) == (page, [1]), best
        assert words in best["text"].lower()
    assert upload(http, "/tasks/index", "copy.pdf", pdf(PAGES)).json()["duplicate"] is True
    assert http.delete(f"/tasks/{made['id']}").status_code == 204
    assert http.post("/search", json={"query": "dragon"}).json() == []


@pytest.fixture
def provider(http: httpx.Client) -> Iterator[Scripted]:
    """A scripted provider assigned to structured output."""
    with scripted() as script:
        made = http.post("/models/providers", json={"name": "tasks", "base_url": script.url}).json()
        model = http.post(f"/models/provider/{made['id']}/discover").json()[0]
        http.post("/models/global_capability/structured_output?wait=false", json={"model_id": model["id"]})
        yield script
        give(http, structured_output="starter")
        http.delete(f"/models/providers/{made['id']}")


def test_a_failing_server_is_tried_again_up_to_a_limit(http: httpx.Client, provider: Scripted) -> None:
    provider.steps = [500] * 3
    made = http.post("/tasks/tag", json={"text": uuid.uuid4().hex}).json()
    task = finished(http, made["id"])
    assert (task["state"], task["attempts"]) == ("failed", 3)
    assert "the script says no" in task["error"]
    assert len(provider.requests) == 3
    assert http.post(f"/tasks/{made['id']}/cancel").json()["state"] == "failed"
    give(http, structured_output="starter")
    assert http.post(f"/tasks/{made['id']}/retry").status_code == 202
    task = finished(http, made["id"])
    assert task["state"] == "done", task
    assert http.post(f"/tasks/{made['id']}/retry").status_code == 409


def test_a_cancelled_task_stops_and_goes_on_where_it_was(http: httpx.Client) -> None:
    # Pictures take a moment each: three are enough to be cancelled amid them.
    many = pdf([(f"Page {i} {uuid.uuid4().hex}", PAGES[i][1] if i < 3 else []) for i in range(8)])
    made = upload(http, "/tasks/index", "many.pdf", many).json()
    wait_for(lambda: http.get(f"/tasks/{made['id']}").json()["done"] >= 1, 60)
    assert http.delete(f"/tasks/{made['id']}").status_code == 409
    stopped = http.post(f"/tasks/{made['id']}/cancel").json()
    assert stopped["state"] == "cancelled"
    done = http.get(f"/tasks/{made['id']}").json()["done"]
    assert http.post(f"/tasks/{made['id']}/retry").json()["state"] == "queued"
    wait_for(lambda: http.get(f"/tasks/{made['id']}").json()["state"] == "running")
    assert finished(http, made["id"])["result"]["pages"] == 8
    assert done < 8


def test_a_chat_streams_while_a_pdf_is_indexed(http: httpx.Client) -> None:
    content = pdf([(f"{words} {uuid.uuid4().hex}", colours) for words, colours in PAGES])
    made = upload(http, "/tasks/index", "beside.pdf", content).json()
    wait_for(lambda: http.get(f"/tasks/{made['id']}").json()["state"] == "running")
    for _ in range(2):
        assert "Paris" in text(chat(http, body(user(PARIS))))
    task = finished(http, made["id"])
    assert (task["state"], task["attempts"]) == ("done", 1), task
    assert http.delete(f"/tasks/{made['id']}").status_code == 204


def test_word_powerpoint_html_and_images_are_indexed_and_their_pictures_found(http: httpx.Client) -> None:
    page = f"<p>A page.</p><img src='data:image/png;base64,{base64.b64encode(png(shape('circle', 'blue'))).decode()}'>"
    files = {
        "letter.docx": (docx("Dear aunt, thank you for the cake.", [shape("triangle", "red")]), "red triangle", 1),
        "talk.pptx": (pptx([("Welcome", []), ("Our logo", [shape("square", "green")])]), "green square", 2),
        "page.html": (page.encode(), "blue circle", 1),
        "photo.png": (png(shape("square", "red")), "red square", 1),
    }
    made = {name: upload(http, "/tasks/index", name, content).json()["id"] for name, (content, _, _) in files.items()}
    for name, (_, words, number) in files.items():
        task = finished(http, made[name])
        assert task["state"] == "done", task
        assert (task["result"]["pictures"], task["result"]["described"]) == (1, 1)
        found = http.post("/search", json={"query": f"a picture of a {words}", "limit": 20}).json()
        hit = next(h for h in found if h["document"] == name and h["pictures"])
        assert hit["page"] == number
        assert words in hit["text"].lower(), hit
    for task_id in made.values():
        http.delete(f"/tasks/{task_id}")


def test_a_row_of_an_excel_file_is_found(http: httpx.Client) -> None:
    content = xlsx({"Staff": [("Ann", "baker")], "Stock": [("Item", "Kg"), ("Flour", 5), ("Bicycle", 1)]})
    made = upload(http, "/tasks/index", "stock.xlsx", content).json()
    assert finished(http, made["id"])["result"]["pages"] == 2
    best = http.post("/search", json={"query": "how much flour is there", "limit": 1}).json()[0]
    assert (best["document"], best["page"]) == ("stock.xlsx", 2), best
    assert "Item: Flour; Kg: 5" in best["text"]
    http.delete(f"/tasks/{made['id']}")


def test_both_processes_killed_on_the_way_lose_and_double_nothing(tmp_path: Path, data_dir: Path) -> None:
    """A PDF is indexed while a chat streams; the sidecar is killed, then the host."""
    document = pdf(PAGES)
    with host(tmp_path, data_dir=data_dir) as running, running.client() as http:
        running.wait_seeded()
        sidecar = running.sidecar()
        made = upload(http, "/tasks/index", "killed.pdf", document).json()
        with http.stream("POST", "/chat/agent-stream", json=body(user(STORY))) as answer:
            source = chunks(answer)
            wait_for(lambda: next(source)["type"] == "text-delta", 60)
            wait_for(lambda: next(source)["type"] == "text-delta" and state(http, made)["done"] >= 1, 60)
            os.kill(sidecar["pid"], signal.SIGKILL)
            assert [e for e in source if e["type"] == "error"]
        wait_for(lambda: running.sidecar()["instance_id"] not in (None, sidecar["instance_id"]), 60)
        before = state(http, made)["done"]
        running.process.kill()
        running.process.wait(10)
    with host(tmp_path, data_dir=data_dir) as again, again.client() as http:
        task = finished(http, made["id"])
        assert task["state"] == "done", task
        # Each page is one parent: its text, and its picture's description where the picture stands.
        wanted = {"pages": 3, "pictures": 3, "described": 3, "parents": 3}
        assert {k: task["result"][k] for k in wanted} == wanted
        assert task["attempts"] <= 3
        assert 1 <= before <= 3
        check_vectors(again, made["id"], task["result"]["children"])
        for page, words in SEEN.items():
            best = http.post("/search", json={"query": f"a picture of a {words}", "limit": 1}).json()[0]
            assert (best["page"], best["pictures"]) == (page, [1]), best
            assert words in best["text"].lower()
        assert "Paris" in text(chat(http, body(user(PARIS))))


def state(http: httpx.Client, made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/tasks/{made['id']}").json()
    return found


def check_vectors(running: HostProcess, task_id: str, children: int) -> None:
    """The store holds every child once."""
    import lancedb

    db = lancedb.connect(running.folder / "data" / "vectors")
    rows = [r for name in db.list_tables().tables for r in db.open_table(name).to_arrow().to_pylist()]
    assert {r["job"] for r in rows} == {task_id}
    assert len(rows) == children


def _drawn(form: str) -> bytes:
    """The same drawing, a red circle, in a file of a format."""
    picture = png(RED)
    if form == "pdf":
        return pdf([(f"A {form} file with one drawing", [RED])])
    if form == "docx":
        return docx(f"A {form} file with one drawing", [RED])
    if form == "pptx":
        return pptx([(f"A {form} file with one drawing", [RED])])
    if form == "html":
        source = base64.b64encode(picture).decode()
        return f"<p>A {form} file</p><img src='data:image/png;base64,{source}'>".encode()
    sink = io.BytesIO()
    RED.save(sink, form)
    return sink.getvalue()


def test_the_same_drawing_is_described_alike_whatever_file_it_is_in(http: httpx.Client) -> None:
    forms = ("pdf", "docx", "pptx", "html", "tiff", "png")
    tasks = [upload(http, "/tasks/index", f"drawing.{form}", _drawn(form)).json()["id"] for form in forms]
    results = [finished(http, task) for task in tasks]
    assert [(r["result"] or {}).get("described") for r in results] == [1] * len(forms), results
    found = http.post("/search", json={"query": "red circle", "limit": 50}).json()
    for form, task in zip(forms, tasks, strict=True):
        text_ = " ".join(hit["text"].lower() for hit in found if hit["task_id"] == task)
        assert ("red" in text_, "circle" in text_) == (True, True), (form, text_)
    for task in tasks:
        http.delete(f"/tasks/{task}")


def test_own_words_are_decided_on_and_a_model_that_cannot_tell_adds_none(
    http: httpx.Client, running: HostProcess
) -> None:
    body_ = {"text": "Saturn has rings, and Jupiter many moons.", "vocabulary": ["Jupiter", "astronomy", "taxes"]}
    task = finished(http, http.post("/tasks/tag", json=body_).json()["id"])
    assert task["state"] == "done", task
    tags = task["result"]["tags"]
    assert tags[0] == "Jupiter", tags
    # The starter says neither yes nor no of most things: what it "decides" is chance, and no tag.
    assert "taxes" not in tags
    asked = [p.read_text() for p in (running.folder / "state" / "logs").glob("*.log")]
    assert any("/v1/decisions" in lines for lines in asked)
