"""Greedy output through the server is mlx-vlm's own, token for token."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

QUESTIONS = [
    "What is the capital of France?",
    "Name three colours.",
    "Write a haiku about rain.",
    "Explain photosynthesis to a child.",
]


def _own(path: Path, question: str, images: list[Path], tokens: int) -> tuple[str, int]:
    from mlx_vlm import stream_generate
    from mlx_vlm.prompt_utils import apply_chat_template
    from mlx_vlm.utils import load

    model, processor = load(str(path))
    prompt = apply_chat_template(processor, model.config, question, num_images=len(images))
    pieces = list(
        stream_generate(
            model, processor, prompt, image=[str(p) for p in images] or None, max_tokens=tokens, temperature=0.0
        )
    )
    # The text of the tokens: mlx-vlm's own streaming text drops bytes that are no character.
    tokenizer = getattr(processor, "tokenizer", processor)
    ids = list({p.generation_tokens: int(p.token) for p in pieces}.values())  # the end tells the last one again
    if ids and ids[-1] in tokenizer.stopping_criteria.eos_token_ids:
        ids.pop()
    return str(tokenizer.decode(ids)), pieces[-1].prompt_tokens


@pytest.mark.parametrize("question", QUESTIONS)
def test_text(client: openai.OpenAI, starter_dir: Path, question: str) -> None:
    answer = client.chat.completions.create(
        model="starter", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=40
    )
    text, prompt_tokens = _own(starter_dir, question, [], 40)
    assert answer.choices[0].message.content == text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == prompt_tokens


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_image(client: openai.OpenAI, model_dir: Path, tmp_path: Path, seed: int) -> None:
    picture = Image.effect_noise((96, 64), 40 * seed).convert("RGB").rotate(seed * 30)
    path = tmp_path / "picture.png"
    picture.save(path)
    data = io.BytesIO()
    picture.save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    content: Any = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "what is in this image?"},
    ]
    answer = client.chat.completions.create(
        model="tiny-vl", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=16
    )
    text, prompt_tokens = _own(model_dir / "tiny-vl", "what is in this image?", [path], 16)
    assert answer.choices[0].message.content == text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == prompt_tokens
