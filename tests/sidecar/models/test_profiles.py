"""Profiles: what a file says, what is wrong with it in words, and what requests by its names get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.models.profiles import Profiles, read
from sidecar.text.thought_budget import BudgetedThought
from tests.support.servers import sidecar

FILE = """
[starter]
temperature = 0
max_tokens = 40

["starter:short"]
max_tokens = 3
stop = "never written"

["starter:loud"]
template = "loud.jinja"

["starter:narrow"]
context = 60

["tiny-vl:small"]
image_side = 64
max_images = 1
"""
LOUD = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\nLOUD {{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, data_dir: Path, model_dir: Path) -> Any:
    """A server whose data directory has profiles beside the models of the others."""
    own = tmp_path_factory.mktemp("data")
    (own / "models").symlink_to(data_dir / "models", target_is_directory=True)
    (own / "profiles.toml").write_text(FILE)
    (own / "loud.jinja").write_text(LOUD)
    with (
        sidecar(tmp_path_factory.mktemp("server"), "--model-dir", str(model_dir), data_dir=own) as running,
        running.client() as client,
    ):
        client.headers["x-folder"] = str(own)
        yield client


def asked(http: httpx.Client, model: str, **body: Any) -> dict[str, Any]:
    content = [{"role": "user", "content": "What is the capital of France?"}]
    answer = http.post("/v1/chat/completions", json={"model": model, "messages": content, **body})
    document: dict[str, Any] = answer.json()
    return document


def test_a_profile_sets_what_a_request_leaves_out(http: httpx.Client) -> None:
    plain = asked(http, "starter")
    assert plain["model"] == "starter"
    assert plain["choices"][0]["message"]["content"] == asked(http, "starter")["choices"][0]["message"]["content"]
    short = asked(http, "starter:short")
    assert short["model"] == "starter:short"
    assert short["usage"]["completion_tokens"] == 3
    assert asked(http, "starter:short", max_tokens=2)["usage"]["completion_tokens"] == 2
    loud = asked(http, "starter:loud")["usage"]["prompt_tokens"]
    assert loud != plain["usage"]["prompt_tokens"]
    narrow = asked(http, "starter:narrow", max_tokens=1000)
    assert narrow["usage"]["total_tokens"] <= 60
    assert asked(http, "starter:nobody")["error"]["message"].startswith("starter has no profile 'nobody'")
    text = http.post("/v1/completions", json={"model": "starter:short", "prompt": "Paris is"}).json()
    assert text["usage"]["completion_tokens"] == 3


def test_the_other_apis_take_the_same_names(http: httpx.Client) -> None:
    body = {"model": "starter:short", "input": "What is the capital of France?"}
    response = http.post("/v1/responses", json=body).json()
    assert response["usage"]["output_tokens"] == 3
    message = {"model": "starter:short", "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}
    assert http.post("/v1/messages", json=message).json()["usage"]["output_tokens"] == 2


def test_models_lists_profiles_and_each_can_be_asked_for(http: httpx.Client) -> None:
    found = http.get("/v1/models").json()
    by_name = {m["id"]: m for m in found["data"]}
    assert by_name["starter"]["profiles"] == ["starter:short", "starter:loud", "starter:narrow"]
    assert by_name["starter:short"]["settings"] == {"temperature": 0, "max_tokens": 3, "stop": "never written"}
    assert by_name["starter:loud"]["settings"]["template"] is True
    assert by_name["tiny-vl:small"]["parent"] == "tiny-vl"
    assert found["problems"] == []
    for name in ("starter:short", "tiny-vl:small", "minilm"):
        assert http.get(f"/v1/models/{name}").json()["id"] == name


def test_a_changed_file_holds_at_once_and_a_broken_one_says_so(http: httpx.Client) -> None:
    file = Path(http.headers["x-folder"]) / "profiles.toml"
    try:
        file.write_text(FILE.replace("max_tokens = 3", "max_tokens = 5"))
        assert asked(http, "starter:short")["usage"]["completion_tokens"] == 5
        file.write_text("[starter\n")
        assert asked(http, "starter:short")["usage"]["completion_tokens"] == 5
        (problem,) = http.get("/v1/models").json()["problems"]
        assert "what it said before holds" in problem
    finally:
        file.write_text(FILE)


def test_what_is_wrong_with_a_file_is_told_and_the_rest_holds(tmp_path: Path) -> None:
    file = tmp_path / "profiles.toml"
    file.write_text(
        'temperature = 1\n[starter]\ntemperatur = 1\ntop_p = 2\ntop_k = true\nkeep_alive = "5 parsecs"\n'
        'template = "none.jinja"\nmin_p = 0.1\n[qwen2.5-vl]\ntop_p = 1\n["a:"]\ntop_p = nan\n[b]\ntop_p = nan\n'
    )
    book = read(file)
    assert book.of("starter") == {"min_p": 0.1, "template_file": str(tmp_path / "none.jinja")}
    said = "\n".join(book.problems)
    assert "did you mean temperature?" in said
    for part in ("stands outside of a table", "] top_p: give a number from 0 to 1", "] top_k: give a whole", '"5m"'):
        assert part in said
    assert "none.jinja can't be read" in said
    assert 'in quotes: ["qwen2.5-vl-3b"]' in said
    assert '["a:"]: write a model' in said
    profiles = Profiles(file)
    assert len(profiles.book().problems) == len(book.problems)
    (tmp_path / "none.jinja").write_text("{{ messages }}")
    assert profiles.book().of("starter")["template"] == "{{ messages }}"
    file.unlink()
    assert profiles.book().tables == {}
    file.mkdir()
    assert "can't be read" in profiles.book().problems[0]


def test_a_budget_ends_a_thought_by_its_marker() -> None:
    thought = BudgetedThought(None, start=(7,), end=(8, 9), budget=2, inside=False)
    thought.accept(7)
    assert thought.mask(12) is None
    thought.accept(1)
    other = thought.copy()
    thought.accept(8)  # the marker's first token, by itself, is a token of thought
    mask = thought.mask(12)
    assert mask is not None
    assert mask.nonzero()[0].tolist() == [9]
    thought.accept(9)
    assert thought.mask(12) is None
    other.accept(2)
    for token in (8, 9):
        mask = other.mask(12)
        assert mask is not None
        assert mask.nonzero()[0].tolist() == [token]
        other.accept(token)
    assert other.mask(12) is None
    none = BudgetedThought(None, start=(7,), end=(8,), budget=0, inside=True)
    mask = none.mask(12)
    assert mask is not None
    assert mask.nonzero()[0].tolist() == [8]
    without = BudgetedThought(None, start=(7,), end=(8,), budget=0, inside=False)
    for token in (1, 2, 3, 4, 7):
        without.accept(token)
    assert without.mask(12) is None
