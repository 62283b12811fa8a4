"""The page at ``/`` in a real Chromium, over a real service, sidecar and model."""

from __future__ import annotations

import base64
import filecmp
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from host_api.app.routes.page import BUILT, POLICY
from tests.support import browser as chromium
from tests.support.documents import png, shape
from tests.support.host_servers import HostProcess, host
from tests.support.scripted import call, scripted
from tests.support.servers import wait_for

PARIS = "What is the capital of France?"
STORY = "Tell me a very long story about a dragon."
ROOT = Path(__file__).resolve().parents[3]
WIDE = {"width": 1360, "height": 860}
SLOW = 90_000  # ms; a model answers meanwhile
# What each page may say on its console: refused requests are shown by the browser as well.
_EXPECTED = re.compile(r"status of (401|409|422)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.browser("--host-resolver-rules=MAP evil.example 127.0.0.1") as found:
        yield found


@pytest.fixture
def page(browser: Browser, running: HostProcess) -> Iterator[Page]:
    """The page, open, its sidecar up; anything on its console (a policy violation, say) fails the test."""
    running.wait_sidecar()
    context = browser.new_context(viewport=WIDE, color_scheme="light")  # type: ignore[arg-type]
    found = context.new_page()
    said: list[str] = []
    found.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    found.on("pageerror", lambda e: said.append(str(e)))
    found.goto(running.link)
    expect(question(found)).to_be_focused()
    expect(found.get_by_test_id("phase")).to_have_text("model process: running")
    yield found
    context.close()
    assert [s for s in said if not _EXPECTED.search(s)] == []


def question(page: Page) -> Any:
    return page.get_by_label("Your question")


def answer(page: Page) -> Any:
    return page.get_by_role("article", name="Answer").last


def ask(page: Page, text: str) -> None:
    question(page).fill(text)
    question(page).press("Enter")


def finished(page: Page) -> None:
    expect(page.get_by_role("status")).to_have_text(re.compile("^(Answer finished|The answer failed)"), timeout=SLOW)
    assert page.get_by_role("alert").all_inner_texts() == []
    expect(page.get_by_role("status")).to_have_text("Answer finished.")


def assign(page: Page, capability: str, model: str) -> None:
    """Choose a model in the picker and wait until the service has it."""
    with page.expect_response(lambda r: "/global_capability/" in r.url and r.request.method == "POST"):
        page.get_by_label(capability, exact=True).select_option(model)


def shot(page: Page, name: str) -> None:
    chromium.SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=chromium.SCREENSHOTS / f"{name}.png")


def axe() -> str:
    """axe-core's source, out of the packages the page is built with."""
    folders = sorted((Path.home() / ".cache" / "mlx-sidecar-dev").glob("web-*/node_modules/axe-core/axe.min.js"))
    assert folders, "axe-core comes with the page's packages: run make web"
    return folders[-1].read_text()


def accessible(page: Page) -> None:
    """No violation of WCAG 2.2 A and AA that axe-core finds."""
    page.evaluate(axe())
    rules = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    found = page.evaluate("rules => axe.run(document, { runOnly: rules })", rules)
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found["violations"]] == []


def test_the_built_page_is_what_its_sources_give(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.fail("The page is built with Node.js and npm: install them (Debian: apt-get install nodejs npm).")
    subprocess.run([ROOT / "tools" / "web.sh", tmp_path / "dist"], check=True, timeout=200, cwd=ROOT)
    names = sorted(p.relative_to(BUILT).as_posix() for p in BUILT.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path / "dist").as_posix() for p in tmp_path.rglob("*") if p.is_file())
    _, changed, missing = filecmp.cmpfiles(BUILT, tmp_path / "dist", names, shallow=False)
    assert (changed, missing) == ([], []), "run make web and commit what it builds"
    assert sum((BUILT / n).stat().st_size for n in names) < 1_200_000


def test_the_page_lets_nothing_else_in(http: httpx.Client) -> None:
    answer = http.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    for name in re.findall(r'(?:src|href)="\./([^"]+)"', answer.text):
        assert http.get(f"/{name}").status_code == 200, name
    assert http.get("/assets/none.js").status_code == 404
    assert http.get("/assets/..%2f..%2f__init__.py").status_code == 404


def test_the_model_process_is_restarted(page: Page, running: HostProcess) -> None:
    before = running.sidecar()["pid"]
    page.get_by_role("button", name="Restart").click()
    expect(page.get_by_role("status")).to_have_text("The model process is running.", timeout=SLOW)
    after = running.sidecar()["pid"]
    assert after != before
    expect(page.get_by_text(f"running (pid {after})", exact=True)).to_be_visible()
    ask(page, PARIS)
    expect(answer(page)).to_contain_text("Paris", timeout=SLOW)


def test_a_question_is_answered_and_the_chat_resumed_renamed_and_deleted(page: Page) -> None:
    ask(page, PARIS)
    expect(answer(page)).to_contain_text("Paris", timeout=SLOW)
    finished(page)
    chats = page.get_by_role("navigation", name="Chats")
    expect(chats.get_by_role("button", name=PARIS, exact=True).first).to_have_attribute("aria-current", "page")
    shot(page, "light")
    page.reload()
    expect(answer(page)).to_contain_text("Paris")
    ask(page, "And of Italy?")
    expect(answer(page)).to_contain_text("Rome", timeout=SLOW)
    finished(page)
    chats.get_by_role("button", name=f"Rename {PARIS}").first.click()
    chats.get_by_label("New title").fill("Capitals")
    chats.get_by_label("New title").press("Enter")
    chats.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("article")).to_have_count(0)
    chats.get_by_role("button", name="Capitals", exact=True).click()
    expect(page.get_by_role("article")).to_have_count(4)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 29)"
    shot(page, "dark")
    accessible(page)
    page.on("dialog", lambda d: d.accept())
    chats.get_by_role("button", name="Delete Capitals").click()
    expect(chats.get_by_role("button", name="Capitals", exact=True)).to_have_count(0)
    expect(page.get_by_role("article")).to_have_count(0)


_GIVE = """([kind, data]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], `${kind}.png`, { type: 'image/png' }));
  const target = document.getElementById('question');
  const init = { bubbles: true, cancelable: true };
  if (kind === 'paste') target.dispatchEvent(new ClipboardEvent('paste', { ...init, clipboardData: transfer }));
  else for (const name of ['dragenter', 'dragover', 'drop'])
    target.dispatchEvent(new DragEvent(name, { ...init, dataTransfer: transfer }));
}"""


def test_pictures_are_dropped_pasted_picked_and_described(page: Page) -> None:
    data = base64.b64encode(png(shape("circle", "red"))).decode()
    for kind in ("drop", "paste"):
        page.evaluate(_GIVE, [kind, data])
        expect(page.get_by_role("img", name=f"{kind}.png")).to_be_visible()
        if kind == "drop":
            page.get_by_role("button", name="Remove drop.png").click()
    page.get_by_role("button", name="Remove paste.png").click()
    picture = {"name": "circle.png", "mimeType": "image/png", "buffer": png(shape("circle", "red"))}
    page.get_by_label("Files", exact=True).set_input_files(picture)  # type: ignore[arg-type]
    expect(page.get_by_role("img", name="circle.png")).to_be_visible()
    ask(page, "What is in this picture?")
    finished(page)
    expect(page.get_by_role("img", name="Picture: circle.png")).to_be_visible()
    said = answer(page).inner_text().lower()
    assert "red" in said, said
    assert "circle" in said, said
    shot(page, "picture")


def test_stop_stops_the_engine(page: Page, running: HostProcess) -> None:
    def rows() -> int:
        return int(running.sidecar()["queue"]["interactive"]["running"])

    ways: tuple[Callable[[], None], ...] = (
        lambda: page.get_by_role("button", name="Stop").click(),
        lambda: page.keyboard.press("Escape"),
    )
    for stop in ways:
        ask(page, STORY)
        expect(answer(page)).to_contain_text(re.compile(r"\w+ \w+"), timeout=SLOW)
        assert rows() == 1
        stop()
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        wait_for(lambda: rows() == 0, 20)
        page.get_by_role("button", name="New chat").click()


def test_every_word_of_the_page_is_there_in_chinese() -> None:
    source = ROOT / "host_api" / "app" / "web" / "src"
    used: set[str] = set()
    for path in source.glob("*.tsx"):
        used |= set(re.findall(r"\bt\('((?:[^'\\\\]|\\\\.)+)'", path.read_text()))
    known = set(re.findall(r"'((?:[^'\\\\]|\\\\.)+)': '", (source / "zh.ts").read_text()))
    assert used - known == set()
    assert len(used) > 100


def test_what_a_model_writes_is_shown_as_it_means_it(page: Page, http: httpx.Client) -> None:
    written = (
        "# Bread\n\n| flour | water |\n| --- | --- |\n| 500 g | 350 g |\n\n- [x] knead\n\n"
        "```python\nprint('bread')\n```\n\n$e^{i\\pi} + 1 = 0$\n\n"
        "<img src=x onerror=\"document.title='run'\"> <script>document.title='run'</script>\n\n"
        "![spy](https://evil.example/x.png) [link](javascript:document.title='run')"
    )
    with scripted() as provider:
        made = http.post("/models/providers", json={"name": "writer", "base_url": provider.url}).json()
        model = http.post(f"/models/provider/{made['id']}/discover").json()[0]["id"]
        provider.steps = [[{"content": written}], [{"content": "Once more."}], [{"content": "Edited."}]]
        asked: list[str] = []
        page.on("request", lambda r: asked.append(r.url))
        page.get_by_label("Model", exact=True).select_option(str(model))
        ask(page, "How is bread made?")
        finished(page)
        said = answer(page)
        expect(said.get_by_role("cell", name="350 g")).to_be_visible()
        expect(said.locator("math")).to_have_count(1)
        expect(said.get_by_role("button", name="Copy", exact=True)).to_be_visible()
        expect(said.locator(".hljs-built_in")).to_have_text("print")
        assert page.title() != "run"
        assert not [url for url in asked if "evil" in url]
        shot(page, "markdown")
        accessible(page)
        page.get_by_role("button", name="Answer again").click()
        expect(answer(page)).to_contain_text("Once more.")
        finished(page)
        expect(page.get_by_text("2/2")).to_be_visible()
        page.get_by_role("button", name="Earlier version").click()
        expect(answer(page)).to_contain_text("350 g")
        page.get_by_role("button", name="Edit", exact=True).click()
        page.get_by_label("Edited question").fill("How is cheese made?")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(answer(page)).to_contain_text("Edited.")
        expect(page.get_by_role("article", name="You")).to_have_text("How is cheese made?")
        http.delete(f"/models/providers/{made['id']}")


def test_an_answer_goes_on_without_its_window_and_shows_in_another(page: Page, running: HostProcess) -> None:
    ask(page, STORY)
    expect(answer(page)).to_contain_text(re.compile(r"\w+ \w+"), timeout=SLOW)
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("article")).to_have_count(0)
    other = page.context.new_page()
    other.goto(running.link)
    for window in (page, other):
        window.get_by_role("navigation", name="Chats").get_by_role("button", name=STORY).first.click()
        expect(answer(window)).to_contain_text(re.compile(r"\w+ \w+"), timeout=SLOW)
    words = answer(page).inner_text()
    assert words.strip()
    page.get_by_role("button", name="Stop").click()
    for window in (page, other):
        expect(window.get_by_role("button", name="Send")).to_be_visible()
    other.close()


def test_the_page_speaks_chinese(page: Page) -> None:
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_label("你的问题")).to_be_focused()
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    page.get_by_label("你的问题").fill(PARIS)
    page.get_by_label("你的问题").press("Enter")
    expect(page.get_by_role("article", name="回答")).to_contain_text("Paris", timeout=SLOW)
    expect(page.get_by_role("status")).to_have_text("回答完成。", timeout=SLOW)
    shot(page, "chinese")
    accessible(page)
    page.set_viewport_size({"width": 390, "height": 844})
    shot(page, "chinese-phone")
    page.set_viewport_size({"width": 1920, "height": 1080})
    page.emulate_media(color_scheme="dark")
    shot(page, "chinese-wide-dark")
    accessible(page)
    page.get_by_role("button", name="English").click()
    expect(question(page)).to_be_focused()


def test_the_header_fits_a_phone_in_both_languages(page: Page) -> None:
    for width, other in ((390, "中文"), (390, "English"), (360, "中文"), (360, "English")):
        page.set_viewport_size({"width": width, "height": 780})
        expect(page.get_by_role("button", name=other)).to_be_visible()
        edges = page.locator("header > *:visible").evaluate_all("all => all.map(e => e.getBoundingClientRect().right)")
        assert len(edges) == 4
        assert max(edges) <= width, edges
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shot(page, f"phone-{width}-{other == 'English'}")
        page.get_by_role("button", name=other).click()


@pytest.fixture
def as_it_was(http: httpx.Client) -> Iterator[None]:
    """Every capability is given back to the model it had."""
    before = http.get("/models/capabilities").json()
    yield
    for c in before:
        body = {"model_id": c["model"]["id"] if c["model"] else None}
        http.post(f"/models/global_capability/{c['name']}", json=body).raise_for_status()


@pytest.mark.usefixtures("as_it_was")
def test_reasoning_tool_calls_and_errors_are_shown(page: Page) -> None:
    with scripted() as provider:
        page.get_by_text("Providers").click()
        page.get_by_role("textbox", name="Name", exact=True).fill("script")
        page.get_by_label("Address").fill(provider.url)
        page.get_by_role("button", name="Add provider").click()
        expect(page.get_by_role("status")).to_have_text("script was added with 1 models.")
        for capability in ("text", "tool use"):
            assign(page, capability, "scripted")
        provider.steps = [
            [{"reasoning_content": "I should compute."}, call("calculate", '{"expression": "12*37"}')],
            [{"content": "It is 444."}],
            500,
        ]
        ask(page, "What is 12*37?")
        finished(page)
        page.get_by_text("Tool: calculate").click()
        expect(answer(page)).to_contain_text("12*37")
        expect(answer(page)).to_contain_text("It is 444.")
        page.get_by_text("Reasoning").click()
        expect(page.get_by_text("I should compute.")).to_be_visible()
        shot(page, "tools")
        accessible(page)
        ask(page, "Again")
        expect(page.get_by_role("alert")).to_contain_text("the script says no")
        page.on("dialog", lambda d: d.accept())
        page.get_by_role("button", name="Remove script").click()
        expect(page.get_by_role("button", name="Remove script")).to_have_count(0)


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    page.keyboard.type(PARIS)
    page.keyboard.press("Enter")
    expect(answer(page)).to_contain_text("Paris", timeout=SLOW)
    finished(page)
    page.reload()
    expect(question(page)).to_be_focused()
    seen: list[str] = []
    skip = page.get_by_role("link", name="Go to the question")
    for _ in range(120):
        page.keyboard.press("Tab")
        held = page.evaluate(
            "(() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " const name = e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || e.tagName;"
            " return [name, s.outlineStyle, e === document.body] })()"
        )
        if held[2]:
            continue
        assert held[1] != "none", f"{held[0]} shows no focus ring"
        seen.append(held[0].strip())
        if seen[-1] == "Go to the question":
            break
    expect(skip).to_be_focused()
    page.keyboard.press("Enter")
    expect(question(page)).to_be_focused()
    wanted = ["Add files", "Model", "Restart", "text", "vision", "embedding", "Providers", "Index a file"]
    assert [w for w in wanted if w not in seen] == [], seen


@pytest.mark.usefixtures("as_it_was")
def test_a_document_is_indexed_with_progress_and_found(page: Page) -> None:
    def give() -> None:
        made = {"name": "bread.txt", "mimeType": "text/plain", "buffer": b"Bread is baked from flour, water and yeast."}
        page.get_by_label("Document", exact=True).set_input_files(made)  # type: ignore[arg-type]

    assign(page, "embedding", "")
    give()
    expect(page.get_by_role("alert")).to_contain_text("No model is assigned to embedding")
    assign(page, "embedding", "starter-embedding")
    give()
    tasks = page.get_by_role("list", name="Tasks")
    expect(tasks.get_by_role("listitem").filter(has_text="index: bread.txt")).to_contain_text("done", timeout=SLOW)
    page.get_by_label("Search the documents").fill("making food in an oven")
    page.get_by_label("Search the documents").press("Enter")
    expect(page.get_by_role("list", name="Found")).to_contain_text("flour, water and yeast", timeout=SLOW)
    shot(page, "documents")
    page.set_viewport_size({"width": 480, "height": 860})
    page.get_by_role("button", name="Models and tasks").click()
    expect(page.get_by_role("list", name="Found")).to_be_visible()
    shot(page, "narrow")
    accessible(page)
    page.get_by_role("button", name="Forget bread.txt").click()
    expect(tasks.get_by_role("listitem")).to_have_count(0)


class _Elsewhere(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title>")


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of another program's web server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(10)


_TRY = "([url, credentials]) => fetch(url, { credentials }).then(r => r.status, () => 'refused')"


def test_the_key_stays_with_the_page(tmp_path: Path, data_dir: Path, browser: Browser, elsewhere: int) -> None:
    key = tmp_path / "key"
    key.write_text("page-key\n")
    with host(tmp_path, "--api-key-file", str(key), data_dir=data_dir) as running:
        context = browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(running.url)
        expect(page.get_by_label("The key")).to_be_focused()
        shot(page, "key")
        accessible(page)
        page.get_by_label("The key").fill("wrong")
        page.get_by_label("The key").press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("does not take that key")
        page.get_by_label("The key").fill("page-key")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_test_id("phase")).to_have_text("model process: running", timeout=SLOW)
        expect(page.get_by_label("text", exact=True)).to_contain_text("starter")
        other = context.new_page()
        other.goto(f"{running.url}/#key=page-key")
        expect(other.get_by_test_id("phase")).to_have_text("model process: running", timeout=SLOW)
        assert "page-key" not in other.url
        # Neither a cookie nor a file of the page holds it; a page of another port gets nothing by it.
        assert context.cookies() == []
        assert all(b"page-key" not in p.read_bytes() for p in BUILT.rglob("*") if p.is_file())
        other.goto(f"http://127.0.0.1:{elsewhere}/")
        assert other.evaluate("Object.keys(sessionStorage)") == []
        assert other.evaluate(_TRY, [f"{running.url}/status", "omit"]) == "refused"
        assert other.evaluate(_TRY, [f"{running.url}/status", "include"]) == "refused"
        # A page of another site is refused, and so is a name of its own for this machine.
        other.goto(f"http://evil.example:{elsewhere}/")
        assert other.evaluate(_TRY, [f"{running.url}/health", "omit"]) == "refused"
        rebound = other.goto(running.url.replace("127.0.0.1", "evil.example"))
        assert rebound is not None
        assert rebound.status == 403
        context.close()
        assert "page-key" not in running.logs()
