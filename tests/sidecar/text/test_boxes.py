"""Places in pictures come back in the pixels of the picture that was sent."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from sidecar.text.boxes import Boxes, without_marks
from tests.support.servers import Sidecar

BOX = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4, "x-box": "xyxy"}
FOUND = {
    "$defs": {"box": BOX, "point": {"type": "array", "items": {"type": "number"}, "x-box": "xy", "x-box-scale": 1}},
    "type": "object",
    "properties": {
        "things": {"type": "array", "items": {"type": "object", "properties": {"box_2d": {"$ref": "#/$defs/box"}}}},
        "middle": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
        "count": {"type": "array", "items": {"type": "integer"}},
    },
}


@pytest.mark.parametrize(
    ("scale", "seen", "box"),
    [(1000, None, [100, 250, 500, 750]), ("pixels", (280, 140), [28, 35, 140, 105]), (1, None, [0.1, 0.25, 0.5, 0.75])],
    ids=["thousandths", "pixels", "parts"],
)
def test_every_scale_comes_to_the_same_pixels(scale: Any, seen: tuple[int, int] | None, box: list[float]) -> None:
    boxes = Boxes(FOUND, scale, (800, 400), seen)
    document = {"things": [{"box_2d": box}, {"box_2d": "none"}], "middle": [0.5, 0.25], "count": [1, 2, 3, 4]}
    mapped = json.loads(boxes.mapped(json.dumps(document)))
    assert mapped["things"] == [{"box_2d": [80, 100, 400, 300]}, {"box_2d": "none"}]
    assert mapped["middle"] == [400.0, 100.0]
    assert mapped["count"] == [1, 2, 3, 4]
    assert boxes.mapped('{"things": [') == '{"things": ['
    assert boxes.mapped('{"middle": null}') == '{"middle": null}'


def test_drawn_boxes_go_to_the_models_grid_and_back() -> None:
    draw = np.random.default_rng(7)
    for _ in range(200):
        width, height = (int(n) for n in draw.integers(20, 4000, 2))
        true = [int(draw.integers(0, width + 1)), int(draw.integers(0, height + 1))] * 2
        seen = (28 * int(draw.integers(1, 60)), 28 * int(draw.integers(1, 60)))
        model = [true[i] * seen[i % 2] / (width, height)[i % 2] for i in range(4)]
        boxes = Boxes({"x-box": "xyxy", "items": {"type": "integer"}}, "pixels", (width, height), seen)
        assert json.loads(boxes.mapped(json.dumps(model))) == true
    outside = Boxes({"x-box": "xywh"}, 1000, (100, 50))
    assert json.loads(outside.mapped("[-5, 2000, 10, 10]")) == [0.0, 50.0, 1.0, 0.5]


def test_marks_do_not_reach_the_grammar() -> None:
    assert "x-box" not in json.dumps(without_marks(FOUND))
    named = {"properties": {"x-box": {"type": "string"}}}
    assert without_marks(named) == named


def test_a_model_s_boxes_are_in_the_picture_s_pixels(server: Sidecar) -> None:
    sink = io.BytesIO()
    Image.effect_noise((1000, 500), 50).convert("RGB").save(sink, "PNG")
    url = "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()

    def ask(http: httpx.Client, schema: dict[str, Any], stream: bool = False, pictures: int = 1) -> httpx.Response:
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}] * pictures
        content.append({"type": "text", "text": "Where is it?"})
        form = {"type": "json_schema", "json_schema": {"name": "box", "schema": schema}}
        body = {"model": "tiny-vl", "temperature": 0, "max_tokens": 400, "response_format": form, "stream": stream}
        return http.post("/v1/chat/completions", json={**body, "messages": [{"role": "user", "content": content}]})

    numbers = {"type": "integer", "minimum": 100, "maximum": 999}
    box = {**BOX, "items": numbers}
    schema = {"type": "object", "properties": {"box": box}, "required": ["box"], "additionalProperties": False}
    with server.client() as http:
        raw = json.loads(ask(http, without_marks(schema)).json()["choices"][0]["message"]["content"])["box"]
        answer = ask(http, schema).json()["choices"][0]["message"]["content"]
        expected = [raw[0], round(raw[1] / 2), raw[2], round(raw[3] / 2)]
        assert json.loads(answer)["box"] == expected
        lines = [json.loads(line[6:]) for line in ask(http, schema, stream=True).text.splitlines() if "{" in line]
        deltas = [c["choices"][0]["delta"].get("content") or "" for c in lines if c["choices"]]
        assert "".join(deltas) == answer
        assert "send one picture" in ask(http, schema, pictures=2).json()["error"]["message"]
        wrong = {**schema, "properties": {"box": {**box, "x-box": "diagonal"}}}
        assert "none of xyxy" in ask(http, wrong).json()["error"]["message"]
