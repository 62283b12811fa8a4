"""What a model folder says before anything of it is loaded: configuration, kind, context, weights' headers. No MLX."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sidecar.errors import LoadError

TOKENIZER_FILES = frozenset({"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"})
"""Files that tokenizers are built from without code."""


def read_config(path: Path) -> dict[str, Any]:
    """Return ``config.json`` of a model folder. Raises LoadError."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise LoadError(f"{path} has no config.json: it is not a model folder, or not whole.") from None
    except (OSError, ValueError, RecursionError) as exc:
        raise LoadError(f"{file} can't be read: {exc}") from exc
    if not isinstance(config, dict) or not config.get("model_type"):
        raise LoadError(f"{file} names no model_type.")
    return config


def is_embedding(path: Path, config: dict[str, Any]) -> bool:
    """Return whether a folder holds an embedding model rather than a chat model."""
    if (path / "modules.json").exists() or (path / "1_Pooling").exists():
        return True
    names = " ".join(config.get("architectures") or [])
    encoders = ("bert", "xlm-roberta", "modernbert", "gemma3_embedding", "qwen3_embedding")
    kind = str(config.get("model_type"))
    return kind in encoders or "_embedding" in kind or ("Embedding" in names and "CausalLM" not in names)


def is_ranker(config: dict[str, Any]) -> bool:
    """Return whether a configuration is of a cross-encoder: an encoder with one score for two texts, read together."""
    names = [str(name) for name in config.get("architectures") or []]
    labels = config.get("num_labels") or len(config.get("id2label") or {}) or 1
    encoder = config.get("model_type") in ("bert", "xlm-roberta", "modernbert")
    return encoder and labels == 1 and any(name.endswith("ForSequenceClassification") for name in names)


def check_safetensors(file: Path) -> dict[str, tuple[int, int]]:
    """Compare a weight file's header with its size, so that a cut-off file is found before it is loaded.

    Return where each tensor's bytes lie, from the end of the header. Raises LoadError.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            if not 0 < length <= size - 8:
                raise ValueError("its header is cut off")
            header = json.loads(data.read(length))
        header.pop("__metadata__", None)
        places = {str(name): (int(t["data_offsets"][0]), int(t["data_offsets"][1])) for name, t in header.items()}
        end = max((place[1] for place in places.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise LoadError(f"{file} is damaged ({exc}); fetch it again.") from exc
    if size < 8 + length + end:
        raise LoadError(f"{file} is cut off: {size} of {8 + length + end} bytes are there; fetch it again.")
    return places


def context_length(config: dict[str, Any]) -> int:
    """Return the model's context in tokens, as its configuration names it; 0 when it names none."""
    for part in (config, config.get("text_config") or {}, config.get("language_config") or {}):
        for key in ("max_position_embeddings", "max_sequence_length", "n_positions", "seq_length"):
            value = part.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return 0


def sampling_defaults(path: Path) -> dict[str, Any]:
    """Return what the model's generation_config.json says of sampling; {} without one."""
    try:
        document = json.loads((path / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    found = {k: document[k] for k in names if isinstance(document.get(k), (int, float))}
    if document.get("do_sample") is False:
        found["temperature"] = 0.0
    return found


def wants_code(config: dict[str, Any], tokenizer: dict[str, Any], names: Iterable[str]) -> str:
    """Return why a model with these files can't be loaded without running its own code; "" if it can.

    ``config`` and ``tokenizer``: its config.json and tokenizer_config.json. An ``auto_map`` alone is no reason: nobody
    reads it, and many models have one beside everything that mlx-vlm's own classes need.
    """
    if name := config.get("model_file"):
        return f"its config.json wants the Python file {str(name)[:80]!r} to be run (model_file)"
    maps = tokenizer.get("auto_map")
    wanted = maps.get("AutoTokenizer") if isinstance(maps, dict) else maps
    if wanted and not set(names) & TOKENIZER_FILES:
        return "its tokenizer is Python code of its own (auto_map), with no tokenizer.json beside it"
    return ""


def read_document(file: Path) -> dict[str, Any]:
    """Return a JSON file's object; {} where there is none that can be read."""
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
