"""What mlx-vlm's own generation answers: the truth of the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.families.spec import Family


@dataclass(frozen=True)
class Answer:
    """An answer's tokens and their log-probabilities; ``best``: of each step, its two best scores' distance."""

    prompt: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    margins: tuple[float, ...]


def said(messages: Sequence[dict[str, Any]], pictures: int) -> list[dict[str, Any]]:
    """Return a conversation as a client sends it, its pictures before the first message's text."""
    out = [dict(m) for m in messages]
    if pictures:
        out[0]["content"] = [{"type": "image"}] * pictures + [{"type": "text", "text": out[0]["content"]}]
    return out


def picture(number: int, side: int) -> Image.Image:
    """Return test picture ``number``: its own colours and shapes, the same at every call."""
    image = Image.new("RGB", (side, side))
    for x in range(side):
        for y in range(side):
            r = (x * (3 + number) + y * 7 * number) % 256
            g = 255 * ((x // (4 + number) + y // 6) % 2)
            image.putpixel((x, y), (r, g, (40 * number + x * y) % 256))
    return image


class Reference:
    """mlx-vlm's own model of a folder, which answers one request at a time."""

    def __init__(self, path: Path, family: Family) -> None:
        from mlx_vlm.utils import load

        self.family = family
        self.model, self.processor = load(str(path))
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        self.eos = set(tokenizer.stopping_criteria.eos_token_ids)

    def answer(self, text: str, pictures: int = 0, *, first: int = 0, tokens: int = 8) -> Answer:
        """Return what mlx-vlm answers to ``text`` with pictures ``first`` and on before it."""
        images = [picture(first + i, self.family.side) for i in range(pictures)]
        return self.converse([{"role": "user", "content": text}], images, tokens=tokens)

    def converse(self, messages: Sequence[dict[str, Any]], images: Sequence[Image.Image], *, tokens: int = 8) -> Answer:
        """Return what mlx-vlm answers to a conversation."""
        return self.generate(self.inputs(messages, images), tokens=tokens)

    def inputs(self, messages: Sequence[dict[str, Any]], images: Sequence[Image.Image]) -> dict[str, Any]:
        """Return what mlx-vlm's processor makes of a conversation. Raises ValueError where it drops the pictures."""
        from mlx_vlm.prompt_utils import apply_chat_template
        from mlx_vlm.utils import prepare_inputs, should_add_special_tokens

        config = self.model.config
        text = apply_chat_template(self.processor, config, said(messages, len(images)), num_images=len(images))
        inputs = prepare_inputs(
            self.processor,
            images=list(images) or None,
            prompts=text,
            image_token_index=getattr(config, "image_token_index", None),
            add_special_tokens=should_add_special_tokens(config.model_type, self.processor),
        )
        if images and inputs.get("pixel_values") is None:
            raise ValueError("mlx-vlm drops the pictures: no image processor was built")
        return dict(inputs)

    def generate(self, inputs: dict[str, Any], *, tokens: int = 8, step: int | None = None) -> Answer:
        """Return the greedy answer to prepared inputs, as a fresh model gives it; ``step``: ``prefill_step_size``."""
        import mlx.core as mx
        from mlx_vlm.generate.ar import generate_step

        language = getattr(self.model, "language_model", self.model)
        for name in ("_position_ids", "_rope_deltas"):  # what the last request left
            if hasattr(language, name):
                setattr(language, name, None)
        rest = {k: v for k, v in inputs.items() if k not in ("input_ids", "pixel_values", "attention_mask")}
        chosen: list[int] = []
        logprobs: list[float] = []
        margins: list[float] = []
        steps = generate_step(
            inputs["input_ids"],
            self.model,
            inputs.get("pixel_values"),
            inputs.get("attention_mask"),
            max_tokens=tokens,
            temperature=0.0,
            prefill_step_size=step or self.family.own_step,
            **rest,
        )
        for _, (token, scores) in zip(range(tokens), steps, strict=False):
            number = int(token if isinstance(token, int) else token.item())
            best: Any = mx.sort(scores)[-2:].tolist()
            margins.append(best[1] - best[0])
            if number in self.eos:
                break
            chosen.append(number)
            logprobs.append(float(scores[number].item()))
        return Answer(int(inputs["input_ids"].size), tuple(chosen), tuple(logprobs), tuple(margins))
