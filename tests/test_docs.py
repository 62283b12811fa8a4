"""What the Markdown files say of other files is true: every link leads somewhere, every path named is there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools import diagrams

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!\\)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|(?:src|srcset|href)=\"([^\"]+)\"")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def tracked(*patterns: str) -> list[Path]:
    """Return the files of this project that match, those not yet committed too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for line in listed.splitlines() if (path := ROOT / line).is_file()]


PAGES = tracked("*.md")


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as GitHub makes them, and of its own anchors."""
    text = FENCE.sub("", page.read_text("utf-8"))
    found = set(re.findall(r'(?:id|name)="([^"]+)"', text))
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        name = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        while name in found:
            name += "-1"
        found.add(name)
    return found


def links(page: Path) -> Iterator[str]:
    """Yield every address a page links to or shows, those in code aside."""
    text = re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text("utf-8")))
    for one, other in LINK.findall(text):
        yield one or other


def test_there_are_pages_and_links() -> None:
    assert len(PAGES) > 10
    assert sum(1 for page in PAGES for _ in links(page)) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        if not place.exists():
            wrong.append(f"{link}: there is no {place}")
        elif anchor and place.suffix == ".md" and anchor not in anchors(place):
            wrong.append(f"{link}: {place.name} has no heading of that name")
    assert not wrong, "\n".join(wrong)


def test_every_page_named_in_the_code_is_there() -> None:
    missing = []
    kinds = ("*.py", "*.rs", "*.sh", "*.toml", "*.ts", "*.tsx", "*.yml", "Makefile", "*.md", "*.spec", "*.c")
    for path in tracked(*kinds):
        for name in re.findall(r"\bdocs/[\w./-]+?\.(?:md|svg|png)\b", path.read_text("utf-8")):
            if not (ROOT / name).exists() and path.name != "test_docs.py":
                missing.append(f"{path.relative_to(ROOT)} names {name}")
    assert not missing, "\n".join(missing)


def test_the_diagrams_are_what_their_code_draws() -> None:
    drawn = diagrams.files()
    assert {p.name for p in diagrams.FOLDER.glob("*.svg")} == set(drawn)
    for name, text in drawn.items():
        assert (diagrams.FOLDER / name).read_text("utf-8") == text, "run: python -m tools.diagrams"
        ElementTree.fromstring(text)  # well formed
        assert "{" not in text
