"""Documents on the page: in a question, in watched folders, in a language that the embedding model doesn't know."""

from __future__ import annotations

from pathlib import Path

import httpx
from playwright.sync_api import Page, expect

from tests.host_api.app.test_page import SLOW, accessible, answer, ask, browser, finished, page, question, shot
from tests.support.documents import docx, png, shape
from tests.support.host_servers import HostProcess, host

__all__ = ["browser", "page"]  # fixtures


def test_documents_and_pictures_go_with_a_question(page: Page, http: httpx.Client) -> None:
    held = page.get_by_role("list", name="Files to send")
    given = [
        {"name": "bread.docx", "mimeType": "application/octet-stream", "buffer": docx("Bread needs yeast.", [])},
        {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.4 nothing"},
        {"name": "red.png", "mimeType": "image/png", "buffer": png(shape("circle", "red"))},
    ]
    page.get_by_label("Files", exact=True).set_input_files(given)  # type: ignore[arg-type]
    expect(held.get_by_role("listitem").filter(has_text="bread.docx")).to_contain_text("1 page")
    expect(held.get_by_role("alert")).to_contain_text("can't be opened")
    accessible(page)
    shot(page, "attached")
    page.get_by_label("Remove broken.pdf").click()
    expect(question(page)).to_be_focused()
    page.get_by_label("Remove red.png").click()
    ask(page, "What does bread need?")
    expect(page.get_by_role("article", name="You")).to_contain_text("bread.docx")
    finished(page)
    expect(answer(page)).not_to_be_empty()
    expect(held).to_have_count(0)
    page.reload()
    expect(page.get_by_role("article", name="You")).to_contain_text("1 page")
    with page.expect_download() as saved:
        page.get_by_role("button", name="bread.docx").click()
    assert saved.value.suggested_filename == "bread.docx"
    accessible(page)


def test_cards_tell_size_memory_and_profiles_and_a_folder_is_watched(
    tmp_path: Path, data_dir: Path, browser: object
) -> None:
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "bericht.txt").write_text("Der Bericht sagt, dass die Wasserleitung in Bamberg nicht mehr dicht ist.")
    (papers / "broken.docx").write_bytes(b"PK no zip")
    own = tmp_path / "data_dir"
    own.mkdir()
    for inside in data_dir.iterdir():
        (own / inside.name).symlink_to(inside)
    (own / "profiles.toml").unlink(missing_ok=True)
    (own / "profiles.toml").write_text('["starter:brief"]\nmax_tokens = 40\n')
    with host(tmp_path / "host", data_dir=own) as running:
        running.wait_seeded()
        context = browser.new_context(viewport={"width": 1360, "height": 900}, color_scheme="dark")  # type: ignore[attr-defined]
        found: Page = context.new_page()
        found.goto(running.link)
        _look(found, papers, running)
        context.close()


def _look(page: Page, papers: Path, running: HostProcess) -> None:
    cards = page.get_by_role("list", name="Models at hand")
    card = cards.get_by_role("listitem").filter(has_text="SmolLM2")
    for words in ("MB", "8,192 tokens of context", "vision", "used for text", "brief", "max tokens 40"):
        expect(card).to_contain_text(words)
    page.get_by_label("Model", exact=True).select_option("starter:brief")
    page.locator("summary").filter(has_text="Folders").click()
    page.get_by_label("Path of a folder").fill("papers")
    page.get_by_role("button", name="Watch").click()
    expect(page.get_by_role("alert")).to_contain_text("whole path")
    page.get_by_label("Path of a folder").fill(str(papers))
    page.get_by_role("button", name="Watch").click()
    folder = page.get_by_role("list", name="Folders").get_by_role("listitem").filter(has_text=papers.name)
    expect(folder).to_contain_text("watched", timeout=SLOW)
    expect(folder).to_contain_text("1 can’t be read")
    expect(page.get_by_role("note")).to_contain_text("in German; starter-embedding knows English alone", timeout=SLOW)
    expect(page.get_by_role("note").get_by_role("button")).to_have_text("Download multilingual-embedding")
    expect(page.get_by_text("engine", exact=False).first).to_be_visible()
    accessible(page)
    shot(page, "cards")
    with running.client() as http:
        seen = http.get("/status").json()["sidecar"]
    assert seen["memory_bytes"] > seen["listener_bytes"] + 50_000_000, "the engine counts"
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("button", name="Models and tasks").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    reach = "Math.max(...[...document.querySelectorAll('#more *')].map(e => e.getBoundingClientRect().right))"
    assert page.evaluate(reach) <= 361
    accessible(page)
    page.once("dialog", lambda d: d.accept())
    page.get_by_role("button", name=f"Remove {papers}").click()
    expect(folder).to_have_count(0)
