"""Conversations as a journal: nothing said is lost, whoever asks when; and what parts an answer's chunks make."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_api.app.chat.parts import Parts
from host_api.app.data.chats import Begun, Sessions
from host_api.app.data.database import Directory
from host_api.app.data.files import Files
from host_api.app.errors import ApiError


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    directory = Directory(tmp_path).open()
    database = directory.database()
    yield Sessions(database, Files(tmp_path / "pictures"))
    database.close()
    directory.close()


def said(text: str, name: str | None = None) -> dict[str, Any]:
    return {"id": name or uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": text}]}


def ask(sessions: Sessions, text: str, parent: str | None, **extra: Any) -> Begun:
    return sessions.begin("s", said(text), parent, turn_id=uuid.uuid4().hex, **extra)


def answered(sessions: Sessions, text: str, parent: str | None, **extra: Any) -> str:
    begun = ask(sessions, text, parent, **extra)
    sessions.end("s", begun.turn_id, [{"type": "text", "text": f"re: {text}", "state": "done"}], "done")
    return begun.turn_id


def shown(sessions: Sessions, leaf: str | None = None) -> list[str]:
    return [t.parts[0]["text"] for t in sessions.get("s", leaf)[1].turns]


def code_of(error: pytest.ExceptionInfo[ApiError]) -> tuple[int, str]:
    return error.value.status_code, error.value.code


def test_two_windows_on_one_chat_lose_nothing(sessions: Sessions) -> None:
    first = answered(sessions, "one", None)
    answered(sessions, "from window A", first)
    with pytest.raises(ApiError) as stale:
        ask(sessions, "from window B", first)
    assert code_of(stale) == (409, "stale_parent")
    assert shown(sessions) == ["one", "re: one", "from window A", "re: from window A"]


def test_a_window_that_knows_nothing_of_a_chat_does_not_write_over_it(sessions: Sessions) -> None:
    answered(sessions, "one", None)
    with pytest.raises(ApiError) as stale:
        ask(sessions, "two", None)
    assert code_of(stale) == (409, "stale_parent")


def test_an_edited_question_is_a_branch_beside_the_first(sessions: Sessions) -> None:
    first = answered(sessions, "one", None)
    answered(sessions, "two", first)
    edited = answered(sessions, "two, edited", first, branch=True)
    assert shown(sessions) == ["one", "re: one", "two, edited", "re: two, edited"]
    _, branch = sessions.get("s")
    question = branch.turns[2].id
    assert len(branch.siblings[question]) == 2
    other = next(s for s in branch.siblings[question] if s != question)
    assert shown(sessions, other)[2:] == ["two", "re: two"]
    sessions.show("s", other)
    assert shown(sessions)[2:] == ["two", "re: two"]
    answered(sessions, "three", sessions.get("s")[0].head_id)
    assert shown(sessions, edited)[2:] == ["two, edited", "re: two, edited"]


def test_an_answer_asked_for_anew_is_a_branch_too(sessions: Sessions) -> None:
    answered(sessions, "one", None)
    question = sessions.get("s")[1].turns[0].id
    again = sessions.begin("s", None, question, turn_id="second")
    sessions.end("s", again.turn_id, [{"type": "text", "text": "another"}], "done")
    assert shown(sessions) == ["one", "another"]
    assert len(sessions.get("s")[1].siblings["second"]) == 2


def test_a_question_sent_twice_is_there_once(sessions: Sessions) -> None:
    message = said("one", "m1")
    begun = sessions.begin("s", message, None, turn_id="a1")
    with pytest.raises(ApiError) as running:
        sessions.begin("s", message, None, turn_id="a2")
    assert code_of(running) == (409, "stale_parent")
    sessions.end("s", begun.turn_id, [], "failed")
    sessions.begin("s", message, None, turn_id="a3")
    turns = sessions.get("s")[1].turns
    assert [t.id for t in turns] == ["m1", "a3"]
    with pytest.raises(ApiError) as other:
        sessions.begin("s", said("something else", "m1"), None, turn_id="a4")
    assert code_of(other) == (409, "stale_parent")


def test_a_deleted_chat_stays_deleted_whatever_still_runs(sessions: Sessions) -> None:
    begun = ask(sessions, "one", None)
    sessions.remove("s")
    sessions.grow("s", begun.turn_id, 0, [{"type": "text-delta", "id": "1", "delta": "x"}])
    assert sessions.end("s", begun.turn_id, [{"type": "text", "text": "x"}], "done") is False
    assert sessions.all() == []


def test_what_came_before_a_crash_is_shown_after_it(sessions: Sessions) -> None:
    begun = ask(sessions, "one", None)
    sessions.grow("s", begun.turn_id, 0, [{"type": "text-start", "id": "1"}])
    sessions.grow("s", begun.turn_id, 1, [{"type": "text-delta", "id": "1", "delta": "half an "}])
    sessions.grow("s", begun.turn_id, 2, [{"type": "text-delta", "id": "1", "delta": "answer"}])
    ((session, turn, chunks),) = sessions.interrupted()
    sessions.end(session, turn, Parts(chunks).ended(), "interrupted")
    assert shown(sessions) == ["one", "half an answer"]
    assert sessions.interrupted() == []


@pytest.mark.parametrize(
    ("words", "found"),
    [("bread", ["Bread"]), ("面包", ["Bread"]), ("FLOUR", ["Bread"]), ("100%", []), ("_", []), ("type", [])],
)
def test_chats_are_found_by_what_was_said(words: str, found: list[str], sessions: Sessions) -> None:
    answered(sessions, "Bread", None)
    head = sessions.get("s")[0].head_id
    answered(sessions, "面包是用面粉做的 from flour", head)
    sessions.begin("other", said("Dragons"), None, turn_id="x")
    assert [s.title for s in sessions.all(words)] == found


def test_a_picture_of_two_chats_stays_until_both_are_gone(sessions: Sessions) -> None:
    digest = sessions.files.put(b"picture")
    for name in ("s", "t"):
        message = {"id": "m", "role": "user", "parts": [{"type": "file", "url": f"chat/files/{digest}"}]}
        sessions.begin(name, message, None, turn_id="a")
    sessions.remove("s")
    assert sessions.files.get(digest) == b"picture"
    sessions.remove("t")
    with pytest.raises(FileNotFoundError):
        sessions.files.get(digest)


# --- chunks to parts -----------------------------------------------------------------------------------
def test_chunks_make_the_parts_that_the_sdk_makes() -> None:
    chunks: list[dict[str, Any]] = [
        {"type": "start", "messageId": "m"},
        {"type": "start-step"},
        {"type": "reasoning-start", "id": "r"},
        {"type": "reasoning-delta", "id": "r", "delta": "Hm"},
        {"type": "reasoning-end", "id": "r"},
        {"type": "tool-input-start", "toolCallId": "c", "toolName": "calculate"},
        {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": "{"},
        {"type": "tool-input-available", "toolCallId": "c", "toolName": "calculate", "input": {"expression": "1"}},
        {"type": "tool-output-available", "toolCallId": "c", "output": "1"},
        {"type": "finish-step"},
        {"type": "start-step"},
        {"type": "text-start", "id": "t"},
        {"type": "text-delta", "id": "t", "delta": "It is "},
        {"type": "text-delta", "id": "t", "delta": "1"},
        {"type": "something-new", "id": "t"},
        {"type": "text-end", "id": "t"},
        {"type": "finish-step"},
        {"type": "finish"},
    ]
    assert Parts(chunks).ended() == [
        {"type": "step-start"},
        {"type": "reasoning", "text": "Hm", "state": "done"},
        {
            "type": "tool-calculate",
            "toolCallId": "c",
            "state": "output-available",
            "input": {"expression": "1"},
            "output": "1",
        },
        {"type": "step-start"},
        {"type": "text", "text": "It is 1", "state": "done"},
    ]


def test_an_answer_cut_off_leaves_nothing_open() -> None:
    chunks: list[dict[str, Any]] = [
        {"type": "text-start", "id": "t"},
        {"type": "text-delta", "id": "t", "delta": "half"},
        {"type": "tool-input-available", "toolCallId": "c", "toolName": "x", "input": {}},
    ]
    parts = Parts(chunks).ended("The connection was lost.")
    assert [p.get("state") for p in parts] == ["done", "output-error", None]
    assert parts[2] == {"type": "data-error", "data": {"text": "The connection was lost."}}
    assert Parts([{"type": "start-step"}]).ended() == []


CHUNKS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                [
                    *(f"{w}-{s}" for w in ("text", "reasoning") for s in ("start", "delta", "end")),
                    "start-step",
                    "finish-step",
                    "tool-input-start",
                    "tool-input-available",
                    "tool-output-available",
                    "tool-output-error",
                    "tool-approval-request",
                    "file",
                    "data-x",
                    "abort",
                ]
            ),
            "id": st.sampled_from(["1", "2"]),
            "toolCallId": st.sampled_from(["c", "d"]),
            "delta": st.text(max_size=3),
        },
        optional={"toolName": st.just("t"), "input": st.just({}), "output": st.just("o"), "errorText": st.just("e")},
    ),
    max_size=30,
)


@given(CHUNKS)
@settings(max_examples=200, deadline=None)
def test_any_order_of_chunks_makes_parts_and_keeps_every_word(chunks: list[dict[str, Any]]) -> None:
    parts = Parts(chunks).ended()
    words = "".join(p["text"] for p in parts if p["type"] in ("text", "reasoning"))
    deltas = [c["delta"] for c in chunks if c["type"] in ("text-delta", "reasoning-delta")]
    assert sorted(words) == sorted("".join(deltas))
    assert not [p for p in parts if p.get("state") in ("streaming", "input-streaming", "input-available")]
