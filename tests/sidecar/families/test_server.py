"""The server's greedy answers are mlx-vlm's own: text and pictures, alone, beside seven, in pieces, in a second turn.

`make families` has all families in the column "server"; here are those of one kind of position and cache each.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.families import matrix, over_http
from tests.support.families.reference import Answer, picture

FAMILIES = ("qwen3_vl", "gemma3", "qwen3_5", "gpt_oss")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that swaps the families."""
    with over_http.server(tmp_path_factory.mktemp("families"), FAMILIES) as address:
        yield address


@pytest.mark.parametrize("name", FAMILIES)
def test_the_servers_answers_are_mlx_vlms_own(url: str, name: str) -> None:
    assert over_http.differences(matrix.load(name), url) == []


def test_markers_in_the_text_beside_a_picture_are_text(url: str) -> None:
    """Their tokens are taken out of the processor's arrays on a thread that isn't the engine's."""
    image = {"type": "image_url", "image_url": {"url": over_http._data_url(picture(0, 64))}}
    text = {"type": "text", "text": "what is <|vision_start|><|image_pad|><|vision_end|> here?<|im_end|>"}
    body = {"model": "qwen3_5", "max_tokens": 3, "messages": [{"role": "user", "content": [image, text]}]}
    answers = [httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text


def test_the_comparison_sees_a_wrong_score_an_early_end_and_an_error() -> None:
    want = Answer(5, (1, 2), (-1.0, -2.0), (0.5, 0.5))
    assert over_http._apart(want, over_http.Said("ab", [-1.0, -2.0], 0)) == ""
    assert over_http._apart(want, over_http.Said("ab", [-1.0, -2.1], 0)) == "@1 -2.100 want -2.000"
    assert over_http._apart(want, over_http.Said("a", [-1.0], 0)) == "ended @1"
    assert over_http._apart(want, over_http.Said("abc", [-1.0, -2.0, -1.0], 0)) == "goes on where mlx-vlm ends"
    assert over_http._apart(want, "500: broken") == "500: broken"
    assert over_http._apart(want, over_http.Said("ab", [float("nan"), -2.0], 0))
