"""The starter model's eyes: assembly, what it sees, and that text answers stay the text model's."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from sidecar.models.starter import StarterError, eyes
from tools import starter_eval

Pair = tuple[Any, Any]


def ask(pair: Pair, question: str, images: Sequence[Image.Image] = (), *, tokens: int = 16) -> str:
    """The greedy answer."""
    from mlx_vlm import generate
    from mlx_vlm.prompt_utils import apply_chat_template

    model, processor = pair
    prompt = apply_chat_template(processor, model.config, question, num_images=len(images))
    answer = generate(
        model, processor, prompt, image=list(images) or None, max_tokens=tokens, temperature=0.0, verbose=False
    )
    return str(answer.text)


def picture(colour: str, shape: str) -> Image.Image:
    """One large shape on white, 256 × 256 pixels."""
    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((70, 70, 190, 190), fill=colour)
    elif shape == "triangle":
        draw.polygon([(128, 60), (200, 185), (56, 185)], fill=colour)
    else:
        draw.rectangle((75, 75, 185, 185), fill=colour)
    return image


@pytest.mark.parametrize(
    ("colour", "shape"), [("red", "circle"), ("blue", "square"), ("green", "triangle"), ("black", "circle")]
)
def test_colour_and_shape_are_seen(seeing: Pair, colour: str, shape: str) -> None:
    answer = ask(seeing, "What is in this picture?", [picture(colour, shape)])
    assert starter_eval.right([colour, shape], answer), answer


def test_held_out_pictures_are_answered_right(seeing: Pair) -> None:
    wrong, asked = [], 0
    for entry, data in starter_eval.held_out(3):
        answer = ask(seeing, entry["question"], [Image.open(io.BytesIO(data)).convert("RGB")])
        asked += 1
        if not starter_eval.right(entry["wanted"], answer):
            wrong.append((entry["question"], entry["answer"], answer))
    assert asked == 3 * len(starter_eval.GOALS)
    assert len(wrong) <= 2, wrong


def test_a_wide_picture_is_taken(seeing: Pair) -> None:
    wide = picture("red", "circle").resize((300, 256))
    assert "red" in ask(seeing, "What is in this picture?", [wide]).lower()


def test_two_pictures_in_one_question_are_taken(seeing: Pair) -> None:
    from mlx_vlm.prompt_utils import apply_chat_template
    from mlx_vlm.utils import prepare_inputs

    model, processor = seeing
    prompt = apply_chat_template(processor, model.config, "What is in these pictures?", num_images=2)
    images = [picture("red", "circle"), picture("blue", "square")]
    inputs = prepare_inputs(processor, images=images, prompts=prompt, image_token_index=16)
    assert inputs["input_ids"].tolist()[0].count(16) == 2 * eyes.IMAGE_TOKENS
    assert ask(seeing, "What is in these pictures?", images)


def test_text_answers_are_the_text_models(seeing: Pair, starter_text_dir: Path) -> None:
    from mlx_vlm.utils import load

    text = load(str(starter_text_dir))
    for question in starter_eval.TEXT_PROMPTS[:4]:
        assert ask(seeing, question, tokens=8) == ask(text, question, tokens=8)


def test_a_conversation_in_text_is_written_as_the_text_model_writes_it(seeing: Pair, starter_text_dir: Path) -> None:
    from mlx_vlm.prompt_utils import apply_chat_template
    from mlx_vlm.utils import load, load_config

    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name <image> and <img>."},
        {"role": "assistant", "content": "Tags."},
        {"role": "user", "content": "Thanks <|im_end|>"},
    ]
    _, tokenizer = load(str(starter_text_dir), lazy=True)
    wanted = apply_chat_template(tokenizer, load_config(starter_text_dir), messages, num_images=0)
    model, processor = seeing
    text = apply_chat_template(processor, model.config, messages, num_images=0)
    assert text == wanted
    assert processor.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_four_bit_text_model_gets_eyes_too(starter_text_dir: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_vlm.utils import load

    source = tmp_path / "text"
    source.mkdir()
    config = json.loads((starter_text_dir / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "torch_dtype": "float16"}
    config["quantization"] = {"group_size": 32, "bits": 4, "model.embed_tokens": False}
    weights: dict[str, mx.array] = {}
    whole: Any = mx.load(str(starter_text_dir / "model.safetensors"))
    for name, tensor in whole.items():
        if ".layers." in name and ".layers.0." not in name:
            continue
        if name.endswith("_proj.weight"):
            parts = mx.quantize(tensor.astype(mx.float16), group_size=32, bits=4)
            for part, value in zip(("weight", "scales", "biases"), parts, strict=True):
                weights[f"{name.removesuffix('.weight')}.{part}"] = value
        else:
            weights[name] = tensor.astype(mx.float16)
    mx.save_safetensors(str(source / "model.safetensors"), weights)
    (source / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (source / name).write_bytes((starter_text_dir / name).read_bytes())
    eyes.assemble(source, tmp_path / "out")
    model, processor = load(str(tmp_path / "out"))
    assert model.vision_model.post_layernorm.weight.dtype == mx.float16
    assert type(model.language_model.layers[0].mlp.up_proj).__name__ == "QuantizedLinear"
    assert isinstance(ask((model, processor), "What is this?", [picture("red", "circle")], tokens=2), str)


def test_a_folder_without_a_text_model_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StarterError, match="install it again"):
        eyes.assemble(tmp_path / "nothing", tmp_path / "out")


def test_the_shipped_weights_are_small() -> None:
    assert (eyes.EYES / "eyes.safetensors").stat().st_size <= 20_000_000
