"""What makes a family's tiny model: its configuration, special tokens, chat template and processor files."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 768
"""Tokens of every tiny model: the special ones first, then the 256 bytes, then words that no text contains."""

WINDOW = 64
"""Tokens of a sliding window; most prompts of the matrix are longer."""

LAYERS = 4

Config = dict[str, Any]
Ids = Mapping[str, int]
Make = Callable[[Ids], Config]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the matrix.

    ``specials``: special tokens; their ids are their places here. ``<pad>``, ``<s>`` and ``</s>`` are 0, 1 and 2.
    ``config``: makes ``config.json``. ``files``: makes more files, by name, as JSON documents. ``pictures``: as many
    as one prompt may have, 0 for a model that doesn't see. ``side``: edge of the test pictures, pixels. ``gain``: how
    much larger than the modules' own the random weights are, ``embedding_gain`` those of the tokens' embeddings.
    ``prepare``: called before mlx-vlm makes the model; shortens a tower whose size stands in its code and not in the
    configuration. ``own_fault``: what mlx-vlm itself does wrong, by kind of prompt ("text", "image"), with the reason;
    that is shown and not judged. ``own_step``: the ``prefill_step_size`` of mlx-vlm's own answer.
    """

    name: str
    config: Make
    specials: tuple[str, ...]
    template: str
    files: Make = field(default=lambda ids: {})
    pictures: int = 0
    side: int = 64
    tokenizer: Config = field(default_factory=dict)
    gain: float = 3.0
    embedding_gain: float = 3.0
    prepare: Callable[[], None] | None = None
    own_fault: Mapping[str, str] = field(default_factory=dict)
    own_step: int = 2048

    @property
    def sees(self) -> bool:
        """Return whether it takes pictures."""
        return self.pictures > 0

    @property
    def changes_code(self) -> bool:
        """Return whether a tiny model needs sizes changed that stand in mlx-vlm's code."""
        return self.prepare is not None

    @property
    def ids(self) -> dict[str, int]:
        """Return the id of each special token."""
        return {token: i for i, token in enumerate(self.specials)}

    def document(self) -> Config:
        """Return the folder's ``config.json``."""
        return self.config(self.ids)


FAMILIES: dict[str, Family] = {}
"""Every family there is, by name, in the table's order."""

NOT_MADE: dict[str, str] = {
    "cohere2_vision": "its image processor needs torchvision; mlx-vlm fails in the same place",
    "phi4_siglip": "its image processor (Siglip2) needs torch; mlx-vlm falls back to the bare tokenizer",
    "ernie4_5_moe_vl": "needs a sentencepiece tokenizer.model; without it mlx-vlm drops the pictures",
    "phi3_v": "its tower (ViT-L/336, 1.2 GB) stands in the code and not in the configuration",
    "fastvlm": "its tower (500 MB) stands in the code and not in the configuration",
    "molmo2": "its picture sizes (378 pixels, 1024 values) stand in the code; no tiny folder was made",
    "jina_vlm": "as molmo2",
    "paddleocr_vl": "as molmo2",
    "granite_vision": "as molmo2; importing it takes over llava_next's processor in the same process",
    "minicpmo": "a tiny tokenizer's picture marks aren't recognised; no tiny folder was made",
    **dict.fromkeys(
        (
            "deepseekocr",
            "moondream2",
            "moondream3",
            "florence2",
            "kimi_k25",
            "qwen3_omni_moe",
            "minicpmv4_6",
            "multi_modality",
            "youtu_vl",
            "falcon_ocr",
            "nemotron_parse",
            "granite4_vision",
            "cohere_compass",
        ),
        "no tiny folder was made yet",
    ),
}
"""Families without a tiny model, and why."""


def add(family: Family) -> Family:
    """Enter a family into the table. Raises ValueError for a second one of that name."""
    if family.name in FAMILIES:
        raise ValueError(f"two families are called {family.name}")
    FAMILIES[family.name] = family
    return family


def specials(*more: str) -> tuple[str, ...]:
    """Return the special tokens of a family: the three every one has, then its own."""
    return ("<pad>", "<s>", "</s>", *more)


def template(
    *, image: str = "", before: str = "<|{{ m.role }}|>\n", after: str = "\n", opening: str = "<|assistant|>\n"
) -> str:
    """Return a chat template: ``image`` stands for a picture, ``before`` and ``after`` surround a message."""
    return (
        "{% for m in messages %}" + before + "{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% elif p.type in ('image', 'image_url') %}"
        + image
        + "{% endif %}{% endfor %}{% endif %}"
        + after
        + "{% endfor %}{% if add_generation_prompt %}"
        + opening
        + "{% endif %}"
    )


def decoder(**more: Any) -> Config:
    """Return the fields that nearly every language model has, small; ``more`` adds and replaces."""
    return {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


def tower(**more: Any) -> Config:
    """Return the fields that nearly every vision tower has, small; ``more`` adds and replaces."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_channels": 3,
        "image_size": 32,
        "patch_size": 8,
        "layer_norm_eps": 1e-6,
        **more,
    }


def whole(model_type: str, architecture: str, **more: Any) -> Config:
    """Return a ``config.json``: what every one has and ``more``."""
    return {
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
        "model_type": model_type,
        "architectures": [architecture],
    }


def fingerprint(family: Family, *modules: Any) -> str:
    """Return a digest of all that decides a family's folder: its documents and the code that writes it."""
    text = repr((family.document(), family.files(family.ids), family.specials, family.template, family.tokenizer))
    code = "".join(inspect.getsource(m) for m in modules)
    return hashlib.sha256(f"{text}{family.gain}{family.embedding_gain}{code}".encode()).hexdigest()[:16]
