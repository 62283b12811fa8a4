"""Questions edited, answers asked for anew and chats searched, on the page in a real Chromium."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.host_api.app.test_page import (
    PARIS,
    SLOW,
    accessible,
    answer,
    ask,
    browser,
    finished,
    page,
    question,
    shot,
)

__all__ = ["browser", "page"]


def test_an_edited_question_and_an_answer_anew_are_branches_to_go_between(page: Page) -> None:
    ask(page, PARIS)
    expect(answer(page)).to_contain_text("Paris", timeout=SLOW)
    finished(page)
    page.get_by_role("button", name="Edit", exact=True).click()
    edited = page.get_by_label("Edited question")
    expect(edited).to_be_focused()
    edited.press("Escape")
    expect(edited).to_have_count(0)
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Edited question").fill("What is the capital of Italy?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(answer(page)).to_contain_text("Rome", timeout=SLOW)
    finished(page)
    expect(page.get_by_role("article")).to_have_count(2)
    expect(page.get_by_text("2/2", exact=True)).to_be_visible()
    shot(page, "branches")
    page.get_by_role("button", name="Earlier version").click()
    expect(answer(page)).to_contain_text("Paris")
    expect(page.get_by_text("1/2", exact=True)).to_be_visible()
    page.get_by_role("button", name="Later version").click()
    expect(answer(page)).to_contain_text("Rome")
    page.get_by_role("button", name="Answer again").click()
    expect(page.get_by_text("2/2", exact=True)).to_have_count(2, timeout=SLOW)
    expect(answer(page)).to_contain_text("Rome", timeout=SLOW)
    finished(page)
    accessible(page)
    page.reload()
    expect(page.get_by_text("2/2", exact=True)).to_have_count(2)
    expect(page.get_by_role("article")).to_have_count(2)


def test_chats_are_searched_by_what_was_said(page: Page) -> None:
    ask(page, "What is the capital of France, said the walrus?")
    expect(answer(page)).not_to_be_empty(timeout=SLOW)
    finished(page)
    chats = page.get_by_role("navigation", name="Chats")
    chats.get_by_role("button", name="New chat").click()
    expect(question(page)).to_be_focused()
    chats.get_by_label("Search the chats").fill("WALRUS")
    expect(chats.get_by_role("listitem")).to_have_count(1)
    chats.get_by_role("button", name=re.compile("walrus")).first.click()
    expect(page.get_by_role("article")).to_have_count(2)
    chats.get_by_label("Search the chats").fill("50% of _ or 'nothing'\"")
    expect(chats.get_by_text("No chat has these words.")).to_be_visible()
    chats.get_by_label("Search the chats").fill("")
    expect(chats.get_by_text("No chat has these words.")).to_have_count(0)
