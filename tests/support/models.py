"""Small models the tests make: a randomly initialised Qwen3-VL, whole with tokenizer and processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
CORPUS = [
    "the quick brown fox jumps over the lazy dog and describes a picture of a house with a red roof",
    "what is in this image? name three colours, please. count to ten: one two three four five six",
    '0 1 2 3 4 5 6 7 8 9 { } [ ] " : , true false null name age city answer',
]


QWEN3_VL_4B: dict[str, Any] = {
    "layers": 36,
    "hidden": 2560,
    "vision_depth": 24,
    "vocab": 151_936,
    "bits": 4,
    "max_pixels": 1024 * 1024,
    "dtype": "bfloat16",
    "text": {
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_theta": 5_000_000.0,
        "max_position_embeddings": 262_144,
        "rope_scaling": {"type": "default", "mrope_section": [24, 20, 20]},
    },
    "vision": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    },
}
"""The shapes of Qwen3-VL-4B, for ``qwen3_vl``."""


def qwen3_vl(
    folder: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    vision_depth: int = 2,
    seed: int = 0,
    vocab: int = 0,
    bits: int = 0,
    dtype: str = "float32",
    max_pixels: int = 128 * 128,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
) -> Path:
    """Write a random Qwen3-VL into ``folder`` and return it.

    ``vocab``: filled up with made-up words to this size; ``bits``: of the language model's weights, 0: not quantized;
    ``text``, ``vision``: in place of the small configurations' values.
    """
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_vlm.models.qwen3_vl import Model, ModelConfig
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab = _fill(folder / "tokenizer.json", max(vocab, tokenizer.get_vocab_size()))
    config: dict[str, Any] = {
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "image_token_id": SPECIAL.index("<|image_pad|>"),
        "vision_start_token_id": SPECIAL.index("<|vision_start|>"),
        "vision_end_token_id": SPECIAL.index("<|vision_end|>"),
        "video_token_id": vocab + 1,
        "eos_token_id": [2],
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "intermediate_size": hidden * 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "vocab_size": vocab,
            "rope_theta": 10000.0,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "rope_scaling": {"type": "default", "mrope_section": [4, 2, 2]},
            **(text or {}),
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": vision_depth,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": hidden,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [1],
            **(vision or {}),
        },
    }
    mx.random.seed(seed)
    model = Model(ModelConfig.from_dict(config))
    # Larger than the default initialisation, so that a picture changes the answer.
    scale = 1 if bits else 3
    model.set_dtype(getattr(mx, dtype))
    if bits:
        nn.quantize(  # type: ignore[attr-defined]
            model.language_model, group_size=64, bits=bits
        )
        config["quantization"] = {"group_size": 64, "bits": bits}
    flat: Any = tree_flatten(model.parameters())
    weights = {k: v * scale if v.ndim > 1 and scale > 1 else v for k, v in flat}
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "additional_special_tokens": SPECIAL,
                "chat_template": TEMPLATE,
                "processor_class": "Qwen3VLProcessor",
                "model_max_length": 4096,
            }
        )
    )
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "Qwen2VLImageProcessor",
                "processor_class": "Qwen3VLProcessor",
                "patch_size": 16,
                "merge_size": 2,
                "temporal_patch_size": 2,
                "min_pixels": 32 * 32,
                "max_pixels": max_pixels,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            }
        )
    )
    return folder


def _fill(file: Path, size: int) -> int:
    """Fill the tokenizer in ``file`` up to ``size`` words; returns its size."""
    document = json.loads(file.read_text("utf-8"))
    words = document["model"]["vocab"]
    words.update({f"\u0120w{i}": i for i in range(len(words), size)})
    file.write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    return len(words)
