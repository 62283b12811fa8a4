"""E-books: a page for every chapter, in the order of reading."""

from __future__ import annotations

from host_api.app.documents.content import Limits, Page, PageBuilder, Reading, broken
from host_api.app.documents.readers import html
from host_api.app.documents.readers.archive import Archive, attribute, beside, descendant, encrypted, local
from host_api.app.documents.readers.text import decode

_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # hide fonts alone


def read(archive: Archive, limits: Limits) -> Reading:
    """Return the chapters of an EPUB. Raises a 422."""
    rights = archive.xml("META-INF/encryption.xml")
    if rights is not None:
        methods = [attribute(e, "Algorithm") for e in rights.iter() if local(e) == "EncryptionMethod"]
        if any(m not in _FONTS for m in methods):
            raise encrypted()
    container = archive.xml("META-INF/container.xml")
    root = descendant(container, "rootfile") if container is not None else None
    name = attribute(root, "full-path") if root is not None else ""
    package = archive.xml(name)
    if package is None:
        raise broken("The e-book has no list of its chapters; is it complete?")
    items = {attribute(e, "id"): e for e in package.iter() if local(e) == "item"}
    order = [items[i] for e in package.iter() if local(e) == "itemref" and (i := attribute(e, "idref")) in items]
    pages: list[Page] = []
    notes: list[str] = []
    kept = 0
    for item in order[: limits.pages]:
        chapter = beside(name, attribute(item, "href"))
        content = archive.read(chapter)
        made = PageBuilder(limits)
        text, _ = decode(content, html.charset(content) or "utf-8")
        notes += html.fill(text, made, lambda source, at=chapter: archive.read(beside(at, source)))  # type: ignore[misc]
        if made.blocks:
            pages.append(made.page(len(pages) + 1))
            kept += sum(len(p) for p in made.pictures)
        if kept > limits.kept_bytes:
            notes.append("later chapters were left out: the book's pictures are too many")
            break
    title = next((e.text for e in package.iter() if local(e) == "title" and e.text), "")
    if pages and title:
        first = PageBuilder(limits)
        first.heading(title, 1)
        pages[0] = Page(1, (*first.blocks, *pages[0].blocks), pages[0].pictures)
    return Reading(len(pages), pages, notes=notes)
