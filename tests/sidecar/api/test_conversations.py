"""Conversations of every order, over a real socket: strict templates, answers begun by the client, odd model names."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.servers import sidecar

CHAT = "/v1/chat/completions"
FRANCE = {"role": "user", "content": "What is the capital of France?"}
SYSTEM_FIRST = (
    "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('System message must come first.') }}{% endif %}{% endfor %}"
)
IN_TURNS = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must take turns, the user first.') }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path, data_dir: Path) -> Iterator[httpx.Client]:
    """A server with the starter under a stricter template and an odd name."""
    folder = tmp_path_factory.mktemp("strict")
    model = folder / "models" / unicodedata.normalize("NFD", "строгий é 4bit")
    model.mkdir(parents=True)
    for file in starter_dir.iterdir():
        if file.name == "chat_template.jinja":
            (model / file.name).write_text(SYSTEM_FIRST + IN_TURNS + file.read_text("utf-8"), "utf-8")
        elif file.name != "starter.json":
            (model / file.name).symlink_to(file)
    with (
        sidecar(folder, "--model-dir", str(folder / "models"), data_dir=data_dir) as running,
        running.client() as client,
    ):
        yield client


def ask(http: httpx.Client, messages: list[Any], **more: Any) -> dict[str, Any]:
    name = next(m["id"] for m in http.get("/v1/models").json()["data"] if "4bit" in m["id"])
    answer = http.post(CHAT, json={"model": name, "messages": messages, "temperature": 0, "max_tokens": 8, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    "messages",
    [
        [FRANCE],
        [{"role": "system", "content": "Be kind."}, FRANCE],
        [FRANCE, {"role": "assistant", "content": "Paris."}, {"role": "system", "content": "Be brief."}, FRANCE],
        [{"role": "user", "content": "A question follows."}, {"role": "developer", "content": "Be brief."}, FRANCE],
        [{"role": "user", "content": ""}, FRANCE],
        [{"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]}, FRANCE],
    ],
)
def test_every_order_is_answered(http: httpx.Client, messages: list[Any]) -> None:
    said = ask(http, messages)["choices"][0]["message"]["content"]
    assert said


def test_what_no_arrangement_helps_is_refused_in_words(http: httpx.Client) -> None:
    name = http.get("/v1/models").json()["data"]
    odd = next(m["id"] for m in name if "4bit" in m["id"])
    body = {"model": odd, "messages": [{"role": "assistant", "content": "Hello."}, FRANCE]}
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 400
    assert "take turns" in answer.json()["error"]["message"]


def test_a_listed_name_is_found_in_either_form_of_its_accents(http: httpx.Client) -> None:
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "строгий é 4bit")
        assert http.post(CHAT, json={"model": name, "messages": [FRANCE], "max_tokens": 1}).status_code == 200


def test_an_answer_that_was_begun_goes_on(http: httpx.Client) -> None:
    begun = [FRANCE, {"role": "assistant", "content": "The capital of France is"}]
    flags: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}
    for change in (flags, {"continue_final_message": True}, {"chat_template_kwargs": flags}):
        found = ask(http, begun, model="starter", **change)
        assert found["choices"][0]["message"]["content"].lstrip().startswith("Paris")
    message = {"model": "starter", "max_tokens": 8, "messages": begun}
    (block,) = http.post("/v1/messages", json=message).json()["content"]
    assert block["text"].lstrip().startswith("Paris")
    wrong = http.post(CHAT, json={"model": "starter", "messages": [FRANCE], "continue_final_message": True})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "continue_final_message"


def test_a_picture_in_a_tools_result_is_seen(http: httpx.Client) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (220, 20, 20)).save(out, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}

    def tokens(content: Any) -> int:
        messages = [
            {"role": "user", "content": "Look, then say what colour it is."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": content},
        ]
        return int(ask(http, messages, model="starter", max_tokens=1)["usage"]["prompt_tokens"])

    def said(content: Any) -> int:
        messages = [{"role": "user", "content": content}]
        return int(ask(http, messages, model="starter", max_tokens=1)["usage"]["prompt_tokens"])

    cost = said([picture, {"type": "text", "text": "hi"}]) - said("hi")
    assert abs(tokens([picture]) - tokens("") - cost) <= 4
