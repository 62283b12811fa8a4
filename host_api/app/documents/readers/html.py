"""HTML: the words a reader of the page looks for, its tables and its pictures.

selectolax (lexbor) parses as browsers do. What surrounds a page's content (navigation, banners, footers, asides,
dialogs, hidden things) is left out by its role in the markup. A rule that weighs text against links, as extractors
for news sites do, loses tables, lists and short pages, which people keep; so nothing is left out by its looks.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_to_bytes

from host_api.app.documents.content import DocumentError, Limits, PageBuilder, Reading, alt_text
from host_api.app.documents.readers import images
from host_api.app.documents.readers.text import decode

Fetch = Callable[[str], bytes]
_META = re.compile(rb"""<meta[^>]+?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml[^>]+encoding\s*=\s*["']([\w.:-]+)""")
_NEVER = re.compile("script|style|template|noscript|iframe|object|embed|canvas|audio|video|head|title|select|datalist")
_AROUND = frozenset(("nav", "aside", "dialog", "menu"))
_ROLES = re.compile("navigation|banner|contentinfo|complementary|search|dialog|alertdialog|menu|menubar")
_INLINE = re.compile(
    "a|abbr|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|label|mark|q|rb|rp|rt|ruby|s|samp|small|span"
    "|strike|strong|sub|sup|time|tt|u|var|wbr|button|output"
)
_DEEP = 400  # levels of nesting; what is deeper is taken as text alone


def read(content: bytes, limits: Limits) -> Reading:
    """Return a page of HTML. Raises DocumentError."""
    made = PageBuilder(limits)
    text, note = decode(content, charset(content))
    notes = fill(text, made)
    return Reading(1, (made.page(1),), notes=[n for n in (note, *notes) if n])


def charset(content: bytes) -> str | None:
    """Return the charset that a page of HTML names in its first 4 KB, as browsers understand the name."""
    found = _XML.match(content[:1024]) or _META.search(content[:4096])
    if not found:
        return None
    name = found[1].decode("ascii", "ignore").lower()
    # A page that can be read so far is not UTF-16, and browsers mean the Windows code page by Latin-1's name.
    web = {"iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}
    web |= {"utf-16": "utf-8", "utf-16le": "utf-8", "x-sjis": "cp932", "shift_jis": "cp932", "euc-kr": "cp949"}
    return web.get(name, name)


def fill(text: str, made: PageBuilder, fetch: Fetch | None = None) -> list[str]:
    """Add what a page of HTML shows to ``made``; return what couldn't be read, in words.

    ``fetch`` gives the bytes of pictures that lie beside the page (in an e-book, a mail); none come from elsewhere.
    """
    from selectolax.lexbor import LexborHTMLParser

    walker = _Walker(made, fetch)
    tree = LexborHTMLParser(text)
    title = tree.css_first("title")
    body = tree.body
    if body is not None:
        walker.walk(body, 0)
        walker.flush()
        if not made.blocks:  # everything stood in what is left out elsewhere
            walker.everything = True
            walker.walk(body, 0)
            walker.flush()
    words = title.text(deep=True) if title is not None else ""
    if words.strip() and not any(words.strip() == block.text for block in made.blocks[:3]):
        kept, made.blocks = made.blocks, []
        made.heading(words, 1)
        if any(block.kind == "heading" for block in kept):  # the page has headings of its own: they stand below
            kept = [replace(b, level=b.level + 1) if b.kind == "heading" else b for b in kept]
        made.blocks += kept
    return walker.notes


class _Walker:
    """Goes through the elements in reading order."""

    def __init__(self, made: PageBuilder, fetch: Fetch | None) -> None:
        self.made = made
        self.fetch = fetch
        self.notes: list[str] = []
        self.everything = False
        self._line: list[str] = []

    def flush(self) -> None:
        """End the paragraph."""
        self.made.text(re.sub(r"[^\S\x0b]+", " ", "".join(self._line)).replace("\x0b", "\n"))
        self._line.clear()

    def walk(self, node: Any, depth: int) -> None:
        """Add what is within ``node``."""
        child = node.child
        while child is not None:
            self._node(child, depth)
            child = child.next

    def _node(self, node: Any, depth: int) -> None:
        tag = node.tag
        if tag == "-text":
            self._line.append(node.text_content or "")
            return
        if tag.startswith(("-", "!")) or _NEVER.fullmatch(tag) or self._left_out(node, tag):
            return
        if depth > _DEEP:
            self._line.append(node.text(deep=True))
        elif re.fullmatch("h[1-6]", tag):
            self.flush()
            self.made.heading(node.text(deep=True, separator=" "), int(tag[1]))
            self._pictures(node)
        elif tag == "img":
            self._picture(node)
        elif tag == "svg":
            self.flush()
            self._drawing(node)
        elif tag == "br":
            self._line.append("\x0b")
        elif tag in ("input", "textarea"):
            self._line.append(f" {node.attributes.get('value') or node.text(deep=True)} ")
        elif tag == "table" and not node.css("table table, h1, h2, h3, h4"):
            self.flush()
            self.made.table(_cells(node))
            self._pictures(node)
        elif tag == "pre":
            self.flush()
            self.made.text(node.text(deep=True))
        elif _INLINE.fullmatch(tag):
            self.walk(node, depth + 1)
        else:
            self.flush()
            if tag == "li":
                self._line.append("- ")
            self.walk(node, depth + 1)
            if self._line != ["- "]:
                self.flush()
            self._line.clear()

    def _left_out(self, node: Any, tag: str) -> bool:
        given = node.attributes
        style = (given.get("style") or "").replace(" ", "").lower()
        if "hidden" in given or "display:none" in style or "visibility:hidden" in style:
            return True
        if self.everything:
            return False
        if tag in _AROUND or given.get("aria-hidden") == "true" or _ROLES.fullmatch((given.get("role") or "").lower()):
            return True
        # A header or footer is the site's when it stands in the body, an article's own when within one.
        parent = node.parent
        return tag in ("header", "footer") and parent is not None and parent.tag in ("body", "div")

    def _pictures(self, node: Any) -> None:
        for image in node.css("img"):
            self._picture(image)

    def _picture(self, node: Any) -> None:
        given = node.attributes
        alt, source = given.get("alt") or given.get("title") or "", given.get("src") or ""
        try:
            data = data_url(source) if source.startswith("data:") else self.fetch(source) if self.fetch else b""
            png = images.png_of(data, self.made.limits) if data else None
        except DocumentError as exc:
            self.notes.append(f"a picture was left out: {exc.message}")
            png = None
        if png is None:
            if alt := alt_text(alt):
                self._line.append(f" [picture: {alt}] ")
            return
        self.flush()
        self.made.picture(png, alt)

    def _drawing(self, node: Any) -> None:
        source = node.html or ""
        if len(source) < 200:  # an icon
            return
        if "xmlns=" not in source[:300]:
            source = source.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        title = node.css_first("title")
        try:
            size = [float(v) for v in re.findall(r'(?:width|height)="(\d+)', source[:500])]
            if not size or min(size) >= self.made.limits.smallest:
                drawn = images.svg(source.encode(), self.made.limits)
                self.made.picture(drawn, title.text() if title is not None else "")
        except DocumentError as exc:
            self.notes.append(f"a drawing was left out: {exc.message}")


def data_url(source: str) -> bytes:
    """Return the bytes of a data URL; none when it is damaged."""
    head, _, body = source.partition(",")
    raw = unquote_to_bytes(body)
    if ";base64" not in head:
        return raw
    try:
        return base64.b64decode(b"".join(raw.split()) + b"==", validate=False)
    except (binascii.Error, ValueError):
        return b""


def _cells(table: Any) -> list[list[str]]:
    """Return a table's rows; a merged cell's words stand in each place it covers, so that every row is whole."""
    rows: list[list[str]] = []
    spans: dict[tuple[int, int], str] = {}
    for y, row in enumerate(table.css("tr")):
        cells: list[str] = []
        for cell in row.css("td, th"):
            while (y, len(cells)) in spans:
                cells.append(spans[y, len(cells)])
            words = " ".join(cell.text(deep=True, separator=" ").split())
            wide, high = (_span(cell.attributes.get(name)) for name in ("colspan", "rowspan"))
            for down in range(1, high):
                spans.update({(y + down, len(cells) + i): words for i in range(wide)})
            cells += [words, *[""] * (wide - 1)]
        while (y, len(cells)) in spans:
            cells.append(spans[y, len(cells)])
        rows.append(cells)
    return rows


def _span(value: str | None) -> int:
    return min(int(value), 50) if value and value.isdecimal() and int(value) else 1
