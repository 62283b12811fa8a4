"""Write a family's folder: tokenizer, configuration, processor files and random weights, all from a seed."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.families.spec import FAMILIES, VOCABULARY, Family, fingerprint


def cache_root() -> Path:
    """Return the folder that keeps the built folders from run to run."""
    default = Path.home() / ".cache" / "mlx-sidecar-dev" / "families"
    return Path(os.environ.get("MLX_SIDECAR_FAMILIES", default))


def build(name: str, root: Path | None = None) -> Path:
    """Return the folder of family ``name``, built now where the cache doesn't hold it. Raises what mlx-vlm raises."""
    import mlx_vlm

    family = FAMILIES[name]
    root = root or cache_root()
    folder = root / f"{name}-{mlx_vlm.__version__}-{fingerprint(family, sys.modules[__name__])}"
    if folder.exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob(f"{name}-{mlx_vlm.__version__}-????????????????"):
        shutil.rmtree(old, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    try:
        write(family, work)
        try:
            work.rename(folder)
        except OSError:  # another process was first
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def write(family: Family, folder: Path, *, seed: int = 0) -> None:
    """Write the family's folder, whole. Raises what mlx-vlm raises at a configuration that it doesn't take."""
    import mlx.core as mx

    documents: dict[str, Any] = {
        "config.json": family.document(),
        "tokenizer.json": tokenizer(family),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<pad>",
            "chat_template": family.template,
            "model_max_length": 4096,
            **family.tokenizer,
        },
        **family.files(family.ids),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, ensure_ascii=False, indent=1), "utf-8")
    (folder / "chat_template.jinja").write_text(family.template, "utf-8")
    mx.save_safetensors(str(folder / "model.safetensors"), weights(family, seed), metadata={"format": "mlx"})


def tokenizer(family: Family) -> dict[str, Any]:
    """Return a byte-level ``tokenizer.json`` without merges: every byte of a text is a token."""
    from tokenizers import pre_tokenizers

    words = [*family.specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"\u0120w{i}" for i in range(len(words), VOCABULARY)]
    added = [
        {
            "id": i,
            "content": token,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i, token in enumerate(family.specials)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [],
        },
    }


def weights(family: Family, seed: int) -> dict[str, Any]:
    """Return random weights under mlx-vlm's own names, which its ``sanitize`` takes as converted ones.

    They are larger than the modules' own, so that what a token sees changes what comes next.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten

    if family.prepare is not None:
        family.prepare()
    mx.random.seed(seed)
    flat: Any = tree_flatten(instance(family.document()).parameters())
    return {
        name: _drawn(value, family.embedding_gain if "embed_tokens" in name else family.gain) for name, value in flat
    }


def _drawn(value: Any, gain: float) -> Any:
    import mlx.core as mx

    if not mx.issubdtype(value.dtype, mx.floating):
        return value
    value = value.astype(mx.float32)
    if value.ndim < 2 or value.size == max(value.shape):
        return value + 0.05 * mx.random.normal(value.shape)
    if not mx.var(value).item():  # left empty by the module: a table of positions, experts
        return 0.3 * mx.random.normal(value.shape)
    return value * gain


def instance(config: dict[str, Any]) -> Any:
    """Return mlx-vlm's model of ``config``, made as its loader makes it, without weights."""
    from mlx_vlm import utils

    config = copy.deepcopy(config)
    module, _ = utils.get_model_and_args(config)
    config.setdefault("text_config", config.pop("llm_config", {}))
    config.setdefault("vision_config", {})
    config.setdefault("audio_config", {})
    made = module.ModelConfig.from_dict(config)
    made = utils.update_module_configs(made, module, config, ["text", "vision", "perceiver", "projector", "audio"])
    return module.Model(utils.apply_generation_config_defaults(made, config))
