"""Places in a picture, in the pixels of the picture that was sent, whatever scale the model thinks in.

A schema marks them: an array of numbers with ``"x-box": "xyxy"`` (or ``xywh``, ``yxyx``, or ``xy`` for a point). Models
answer in a grid of their own: Qwen3-VL and Qwen2-VL in thousandths of the picture, Qwen2.5-VL in pixels of the picture
as it was resized for it. ``"x-box-scale"`` says it for models that are not in the table: 1000, 1 (parts of the whole)
or "pixels" (of the resized picture).

The answer is held back until it is whole, since a number can't be mapped before its last digit: a stream gives it at
the end, at once. One that is cut by its limit is no document and stays as the model wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.backend.loader import LoadedModel
from sidecar.engine.rows import Prompt
from sidecar.errors import bad_request
from sidecar.text.answer import Reader
from sidecar.text.delta import Delta
from sidecar.text.schemas.walk import resolve

KEY, SCALE = "x-box", "x-box-scale"
ORDERS = {"xyxy": "xyxy", "xywh": "xyxy", "yxyx": "yxyx", "xy": "xy"}
"""By the word of a schema: along which side each number is measured."""
THOUSANDTHS = frozenset(
    ["qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "internvl_chat", "glm4v", "glm4v_moe"]
)
PIXELS = frozenset(["qwen2_5_vl"])
_DEPTH = 64


@dataclass(frozen=True)
class Boxes:
    """A schema with places in it. ``sent``: width and height of the picture; ``seen``: the same as the model saw it."""

    schema: Any
    scale: Any
    sent: tuple[int, int]
    seen: tuple[int, int] | None = None

    def mapped(self, text: str) -> str:
        """Return a document with its places in pixels; a text that is no document as it is."""
        try:
            document = json.loads(text)
        except ValueError:
            return text
        return json.dumps(self._value(self.schema, document, 0), ensure_ascii=False)

    def _value(self, schema: Any, value: Any, depth: int) -> Any:
        schema = _resolved(self.schema, schema)
        if not isinstance(schema, Mapping) or depth > _DEPTH:
            return value
        if KEY in schema and isinstance(value, list):
            return self._place(schema, value)
        for word in ("allOf", "anyOf", "oneOf"):
            for branch in schema.get(word) or ():
                value = self._value(branch, value, depth + 1)
        if isinstance(value, dict):
            named = schema.get("properties") or {}
            others = schema.get("additionalProperties")
            return {k: self._value(named.get(k, others), v, depth + 1) for k, v in value.items()}
        if isinstance(value, list):
            first = schema.get("prefixItems") or ()
            rest = schema.get("items")
            return [self._value(first[i] if i < len(first) else rest, v, depth + 1) for i, v in enumerate(value)]
        return value

    def _place(self, schema: Mapping[str, Any], numbers: list[Any]) -> list[Any]:
        order = ORDERS[schema[KEY]]
        scale = schema.get(SCALE, self.scale)
        whole = _resolved(self.schema, schema.get("items")) or {}
        out = []
        for number, side in zip(numbers, order, strict=False):
            if not isinstance(number, int | float) or isinstance(number, bool):
                return numbers
            axis = "xy".index(side)
            size = self.sent[axis]
            grid = (self.seen or self.sent)[axis] if scale == "pixels" else scale
            pixel = min(max(0.0, number * size / grid), float(size))
            out.append(round(pixel) if whole.get("type") == "integer" else round(pixel, 2))
        return out


class BoxReader:
    """Holds the words of an answer back until they are whole, and maps the places in them."""

    def __init__(self, inner: Reader, boxes: Boxes) -> None:
        self._inner = inner
        self._boxes = boxes
        self._held = ""

    @property
    def thinking(self) -> bool:
        """Whether the text that comes now is reasoning."""
        return self._inner.thinking

    @property
    def done(self) -> bool:
        """Whether the answer may end."""
        return self._inner.done

    def feed(self, text: str) -> Delta:
        """Return what became clear but for words."""
        return self._kept(self._inner.feed(text))

    def finish(self, *, whole: bool) -> Delta:
        """Return the words."""
        delta = self._kept(self._inner.finish(whole=whole))
        delta.content, self._held = self._boxes.mapped(self._held), ""
        return delta

    def _kept(self, delta: Delta) -> Delta:
        self._held += delta.content
        delta.content = ""
        return delta


def boxes_of(loaded: LoadedModel, schema: Any, prompt: Prompt) -> Boxes | None:
    """Return what maps a schema's places, None where it has none. Raises ApiError."""
    marked = list(_marked(schema))
    if not marked:
        return None
    for one in marked:
        if one[KEY] not in ORDERS:
            raise _refused(f"{KEY}: {one[KEY]!r} is none of {', '.join(ORDERS)}")
        if one.get(SCALE) not in (None, 1, 1000, "pixels") or isinstance(one.get(SCALE), bool):
            raise _refused(f"{SCALE}: {one[SCALE]!r} is none of 1, 1000, pixels")
    kind = loaded.model_type
    scale = 1000 if kind in THOUSANDTHS else "pixels" if kind in PIXELS else None
    if scale is None and any(SCALE not in one for one in marked):
        raise _refused(f"{KEY}: nobody has written down in which scale {kind} answers; say so with {SCALE}")
    if len(prompt.sent) != 1:
        raise _refused(f"{KEY}: send one picture, so that it is clear whose pixels are meant")
    grid = prompt.inputs.get("image_grid_thw") if prompt.inputs is not None else None
    seen = None
    if grid is not None:
        patch = int(getattr(getattr(loaded.processor, "image_processor", None), "patch_size", 14))
        _, high, wide = (int(n) for n in grid[0].tolist())
        seen = (wide * patch, high * patch)
    elif scale == "pixels" or any(one.get(SCALE) == "pixels" for one in marked):
        raise _refused(f"{KEY}: this model does not tell to which size it brings pictures")
    return Boxes(schema, scale, prompt.sent[0], seen)


def without_marks(schema: Any) -> Any:
    """Return a schema without the words of this file, for the grammar."""
    if isinstance(schema, dict):
        if KEY in schema and not isinstance(schema[KEY], dict):
            schema = {k: v for k, v in schema.items() if k not in (KEY, SCALE)}
        return {k: without_marks(v) for k, v in schema.items()}
    return [without_marks(v) for v in schema] if isinstance(schema, list) else schema


def _marked(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if isinstance(schema.get(KEY), str):
            yield schema
        for value in schema.values():
            yield from _marked(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _marked(value)


def _resolved(root: Any, schema: Any) -> Any:
    """Return what a local reference means."""
    for _ in range(_DEPTH):
        address = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(address, str) or not address.startswith("#"):
            break
        try:
            schema = resolve(root, address)
        except LookupError:
            return None
    return schema


def _refused(text: str) -> Exception:
    return bad_request(f"response_format.json_schema.schema: {text}.", param="response_format")
