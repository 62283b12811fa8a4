"""Give the starter model its eyes: one model folder out of the text model and the weights in ``vision/``.

The result is of mlx-vlm's ``smolvlm`` architecture. The language model's weights are the text folder's, byte
for byte (4 bit or float32 alike), so text-only answers stay what they were. Its output layer is a name of its
own in that architecture; both names point at the same bytes of the file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sidecar.models.starter import StarterError

EYES = Path(__file__).with_name("vision")
"""Committed weights and settings of the vision tower and its connector."""
IMAGE, AROUND, GLOBAL = "<empty_output>", "<jupyter_output>", "<jupyter_text>"
"""Tokens of the vocabulary, unused in chat, that mark a picture in the prompt."""
SIDE = 192  # pixels
IMAGE_TOKENS = 36
_PATCH, _PLACES = 8, 32
"""Patches of 8 pixels, so 24 a side. mlx-vlm finds a patch's place by comparing k / 24 with sums of 1 / 24 in float32,
which gives some neighbours the same place; on a grid of 32 every comparison is exact and every place its own."""
_VISION = {
    "model_type": "smolvlm_vision",
    "hidden_size": 384,
    "intermediate_size": 1152,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "patch_size": _PATCH,
    "image_size": _PATCH * _PLACES,
    "num_channels": 3,
    "layer_norm_eps": 1e-6,
}
_TEXT = "model."
_CHUNK = 1 << 22


def assemble(text_dir: Path, out_dir: Path) -> None:
    """Write the model that sees into ``out_dir``, from a converted text model. Raises StarterError."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        text = json.loads((text_dir / "config.json").read_text("utf-8"))
        quantized = "quantization" in text
        _text_weights(text_dir / "model.safetensors", out_dir / "model-text.safetensors")
        _vision_weights(out_dir / "model-vision.safetensors", half=quantized)
        for name in ("tokenizer.json", "generation_config.json"):
            if (text_dir / name).exists():
                shutil.copyfile(text_dir / name, out_dir / name)
        _write(out_dir / "config.json", _config(text))
        _write(out_dir / "tokenizer_config.json", _tokenizer_config(text_dir))
        _write(out_dir / "processor_config.json", {"image_seq_len": IMAGE_TOKENS})
        _write(out_dir / "preprocessor_config.json", _preprocessor())
        template = _template((text_dir / "chat_template.jinja").read_text("utf-8"))
        (out_dir / "chat_template.jinja").write_text(template, "utf-8")
    except (OSError, ValueError, KeyError) as exc:
        raise StarterError(
            f"{out_dir}: the starter model can't be put together ({exc}). Free some space, or install it again."
        ) from exc


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False), "utf-8")


def _text_weights(source: Path, target: Path) -> None:
    """Copy a safetensors file under the names of the seeing model; only its header changes."""
    with source.open("rb") as data, target.open("wb") as out:
        length = int.from_bytes(data.read(8), "little")
        header: dict[str, Any] = json.loads(data.read(length))
        renamed: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
        for name, entry in header.items():
            if name.startswith(f"{_TEXT}embed_tokens."):
                renamed["language_model.lm_head." + name.rpartition(".")[2]] = entry
            if name.startswith(_TEXT):
                renamed["language_model." + name.removeprefix(_TEXT)] = entry
        head = json.dumps(renamed, separators=(",", ":")).encode()
        head += b" " * (-len(head) % 8)
        out.write(len(head).to_bytes(8, "little") + head)
        shutil.copyfileobj(data, out, _CHUNK)


def _vision_weights(target: Path, *, half: bool) -> None:
    """Unpack the 8 bit weights, to float16 beside a quantized language model and to float32 otherwise."""
    import mlx.core as mx

    dtype = mx.float16 if half else mx.float32
    packed: Any = mx.load(str(EYES / "eyes.safetensors"))
    weights = {}
    for name, tensor in packed.items():
        if name.endswith("_scale"):
            continue
        scale = packed.get(f"{name}_scale")
        plain = tensor.astype(mx.float32)
        plain = plain if scale is None else plain * scale.astype(mx.float32)[:, None]
        weights[name] = (_placed(plain) if name.endswith("position_embedding.weight") else plain).astype(dtype)
    mx.save_safetensors(str(target), weights, metadata={"format": "mlx"})


def _placed(table: Any) -> Any:
    """A table of 24 × 24 places spread over the 32 × 32 that mlx-vlm looks them up in."""
    import mlx.core as mx

    side = SIDE // _PATCH
    at = [k * _PLACES // side for k in range(side)]
    wide = mx.zeros((_PLACES * _PLACES, table.shape[-1]))
    wide[mx.array([row * _PLACES + column for row in at for column in at])] = table
    return wide


def _config(text: dict[str, Any]) -> dict[str, Any]:
    inner = {k: v for k, v in text.items() if k not in ("architectures", "quantization", "tie_word_embeddings")}
    config: dict[str, Any] = {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "model_type": "smolvlm",
        "image_token_id": 16,
        "image_token_index": 16,
        "scale_factor": 4,
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["max_position_embeddings"],
        "bos_token_id": text["bos_token_id"],
        "eos_token_id": text["eos_token_id"],
        "pad_token_id": text["eos_token_id"],
        "torch_dtype": text["torch_dtype"],
        "text_config": {**inner, "tie_word_embeddings": False},
        "vision_config": _VISION,
    }
    if "quantization" in text:
        plain = text["quantization"]
        config["quantization"] = {
            "group_size": plain["group_size"],
            "bits": plain["bits"],
            "language_model.embed_tokens": False,
            "language_model.lm_head": False,
        }
    return config


def _tokenizer_config(text_dir: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((text_dir / "tokenizer_config.json").read_text("utf-8"))
    config.pop("chat_template", None)
    config["processor_class"] = "SmolVLMProcessor"
    config["extra_special_tokens"] = {
        "image_token": IMAGE,
        "fake_image_token": AROUND,
        "global_image_token": GLOBAL,
    }
    return config


def _preprocessor() -> dict[str, Any]:
    return {
        "image_processor_type": "SmolVLMImageProcessor",
        "processor_class": "SmolVLMProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": SIDE},
        "max_image_size": {"longest_edge": SIDE},
        "do_image_splitting": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_pad": True,
        "resample": 2,
    }


def _template(text: str) -> str:
    """The text model's template, taking a message's content also as a list of parts."""
    plain = "message['content']"
    if text.count(plain) != 1:
        raise ValueError("the text model's chat template is not the known one")
    head, tail = text.split("{{'<|im_start|>' + message['role'] + '\n' + " + plain, 1)
    parts = (
        "{{'<|im_start|>' + message['role'] + '\n'}}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '" + IMAGE + "' }}{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}{{"
    )
    return head + parts + tail.removeprefix(" + ")
