"""Conversations that strict templates refuse are rearranged; no word and no picture is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.text.conversation import arrangements, with_system

TEXT = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=8)
PARTS = st.lists(
    st.one_of(TEXT.map(lambda t: {"type": "text", "text": t}), st.just({"type": "image"})), min_size=1, max_size=3
)
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "assistant"]), "content": TEXT}),
    st.fixed_dictionaries({"role": st.just("user"), "content": TEXT | PARTS}),
    st.fixed_dictionaries({"role": st.just("tool"), "content": TEXT | PARTS, "tool_call_id": st.just("c")}),
)


def words(messages: list[dict[str, Any]]) -> list[str]:
    """Return every text and picture of a conversation, sorted."""
    found: list[str] = []
    for message in messages:
        content = message["content"]
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            found += (
                part["text"].replace("<tool_response>", "").replace("</tool_response>", "").split()
                if part["type"] == "text"
                else ["(picture)"]
            )
    return sorted(found)


@given(st.lists(MESSAGE, min_size=1, max_size=8))
def test_no_arrangement_loses_a_word_or_a_picture(messages: list[dict[str, Any]]) -> None:
    before = json.dumps(messages)
    found = list(arrangements(messages))
    assert found[0] == messages
    assert all(words(one) == words(messages) for one in found)
    last = found[-1]
    assert not [m for m in last[1:] if m["role"] == "system"]
    assert "tool" not in {m["role"] for m in last} or len(found) == 1
    assert json.dumps(messages) == before


def test_the_steps_one_by_one() -> None:
    def say(role: str, content: Any) -> dict[str, Any]:
        return {"role": role, "content": content}

    messages = [
        say("user", "one"),
        say("user", "two"),
        say("system", "late"),
        say("assistant", "three"),
        say("system", "again"),
    ]
    assert list(arrangements(messages)) == [
        messages,
        [say("system", "late\n\nagain"), say("user", "one"), say("user", "two"), say("assistant", "three")],
        [say("system", "late\n\nagain"), say("user", "one\n\ntwo"), say("assistant", "three")],
        [say("user", "late\n\nagain\n\none\n\ntwo"), say("assistant", "three")],
    ]


def test_a_conversation_that_is_plain_stays_the_only_one() -> None:
    plain = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert list(arrangements(plain)) == [plain]


@pytest.mark.parametrize("content", ["old", ""])
def test_an_instruction_joins_the_system_message(content: str) -> None:
    joined = with_system([{"role": "system", "content": content}], "new")
    assert joined == [{"role": "system", "content": f"{content}\n\nnew".strip()}]
