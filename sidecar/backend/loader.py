"""Load a model folder, on the engine's thread. What can't be loaded is one clear error."""

from __future__ import annotations

import atexit
import gc
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sidecar.engine.grammar import Grammars
from sidecar.errors import LoadError
from sidecar.models import starter
from sidecar.models.starter import eyes

Progress = Callable[[float], None]
"""Called with the part done, 0 to 1."""


@dataclass(eq=False, kw_only=True)
class LoadedModel:
    """A model in memory. ``context``: tokens of prompt and answer together, 0 when unknown."""

    path: Path
    kind: str  # "chat" or "embedding"
    model: Any
    processor: Any
    tokenizer: Any
    config: dict[str, Any]
    eos: tuple[int, ...]
    media_ids: frozenset[int]
    context: int
    grammars: Grammars
    defaults: dict[str, Any] = field(default_factory=dict)  # of sampling

    @property
    def model_type(self) -> str:
        """The architecture, as mlx-vlm names it."""
        return str(self.config.get("model_type", ""))

    @property
    def sees(self) -> bool:
        """Whether it takes images."""
        return "vision_config" in self.config or hasattr(self.model, "vision_tower")


def read_config(path: Path) -> dict[str, Any]:
    """``config.json`` of a model folder. Raises LoadError."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise LoadError(f"{path} has no config.json: it is not a model folder, or not whole.") from None
    except (OSError, UnicodeDecodeError, ValueError) as exc:
        raise LoadError(f"{file} can't be read: {exc}") from exc
    if not isinstance(config, dict) or not config.get("model_type"):
        raise LoadError(f"{file} names no model_type.")
    return config


def is_embedding(path: Path, config: dict[str, Any]) -> bool:
    """Whether a folder holds an embedding model rather than a chat model."""
    if (path / "modules.json").exists() or (path / "1_Pooling").exists():
        return True
    names = " ".join(config.get("architectures") or [])
    encoders = ("bert", "xlm-roberta", "modernbert", "gemma3_embedding", "qwen3_embedding")
    return config.get("model_type") in encoders or ("Embedding" in names and "CausalLM" not in names)


def load(path: Path, progress: Progress) -> LoadedModel:
    """Load the model in folder ``path``. Raises LoadError; what was loaded of it is let go."""
    import mlx.core as mx

    _settle()
    config = read_config(path)
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise LoadError(f"{path} has no .safetensors weights.")
    for file in weights:
        check_safetensors(file)
    progress(0.02)
    try:
        if is_embedding(path, config):
            return _load_embedding(path, config, progress)
        return _load_chat(path, config, progress)
    except LoadError:
        raise
    except MemoryError as exc:
        gc.collect()
        raise LoadError(f"{path.name} does not fit into memory.") from exc
    except Exception as exc:
        gc.collect()
        text = str(exc).strip().splitlines()[0][:300] if str(exc).strip() else type(exc).__name__
        if "not supported" in text.lower():
            text = f"its architecture {config['model_type']!r} is not supported by this version ({text})"
        raise LoadError(f"{path.name} can't be loaded: {text}") from exc
    finally:
        # Layers draw random numbers that the weights replace: unevaluated, the generator's state would keep them all.
        mx.eval(mx.random.state)
        mx.clear_cache()


@cache
def _settle() -> None:
    """Import what every load needs, and keep the collector away from it: a look at all of it takes half a second.

    A running answer would wait for that at every unload.
    """
    import mlx_vlm.embedding_loader
    import mlx_vlm.utils

    _ = (mlx_vlm.embedding_loader, mlx_vlm.utils)
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # else libraries complain of leaks at the end


def check_safetensors(file: Path) -> None:
    """Compare a weight file's header with its size, so that a cut-off file is found first. Raises LoadError."""
    size = file.stat().st_size
    try:
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            if not 0 < length <= size - 8:
                raise ValueError("its header is cut off")
            header = json.loads(data.read(length))
        end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise LoadError(f"{file} is damaged ({exc}); fetch it again.") from exc
    if size < 8 + length + end:
        raise LoadError(f"{file} is cut off: {size} of {8 + length + end} bytes are there; fetch it again.")


def _evaluate(model: Any, progress: Progress, start: float) -> None:
    """Bring the weights into memory piece by piece, reporting the part of their bytes."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    flat: Any = tree_flatten(model.parameters())
    arrays = [a for _, a in flat]
    total = sum(a.nbytes for a in arrays) or 1
    done = 0
    group: list[Any] = []
    size = 0
    for array in arrays:
        group.append(array)
        size += array.nbytes
        if size > 32 << 20:
            mx.eval(group)
            done += size
            group, size = [], 0
            progress(start + (1 - start) * done / total)
    mx.eval(group)


def _load_chat(path: Path, config: dict[str, Any], progress: Progress) -> LoadedModel:
    from mlx_vlm import apc, utils

    progress(0.1)
    model, processor = utils.load(str(path), lazy=True)
    if (path / starter.MARKER).exists():
        eyes.share_output_layer(model)  # both names lead to the same bytes of the file
    progress(0.3)
    _evaluate(model, progress, 0.3)
    tokenizer = getattr(processor, "tokenizer", processor)
    eos = tuple(dict.fromkeys(int(i) for i in tokenizer.stopping_criteria.eos_token_ids))
    return LoadedModel(
        path=path,
        kind="chat",
        model=model,
        processor=processor,
        tokenizer=tokenizer,
        config=config,
        eos=eos,
        media_ids=frozenset(apc.multimodal_token_ids_from_config(model.config)),
        context=context_length(config),
        grammars=Grammars(tokenizer, eos),
        defaults=sampling_defaults(path),
    )


def _load_embedding(path: Path, config: dict[str, Any], progress: Progress) -> LoadedModel:
    from mlx_vlm.embedding_loader import load_embedding_model
    from transformers import AutoTokenizer

    # The tokenizer has nothing to do with MLX: another thread reads it, and a chat goes on meanwhile.
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(AutoTokenizer.from_pretrained, str(path))
        progress(0.1)
        model = load_embedding_model(path, lazy=True)
        progress(0.3)
        _evaluate(model, progress, 0.3)
        while not reading.done():
            wait([reading], timeout=0.005)
            progress(1.0)
        tokenizer = reading.result()
    return LoadedModel(
        path=path,
        kind="embedding",
        model=model,
        processor=tokenizer,
        tokenizer=tokenizer,
        config=config,
        eos=(),
        media_ids=frozenset(),
        context=context_length(config),
        grammars=Grammars(tokenizer, ()),
    )


def context_length(config: dict[str, Any]) -> int:
    """The model's context from its configuration, tokens; 0 when it names none."""
    for part in (config, config.get("text_config") or {}, config.get("language_config") or {}):
        for key in ("max_position_embeddings", "max_sequence_length", "n_positions", "seq_length"):
            value = part.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return 0


def sampling_defaults(path: Path) -> dict[str, Any]:
    """What the model's generation_config.json says of sampling; {} without one."""
    try:
        document = json.loads((path / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    found = {k: document[k] for k in names if isinstance(document.get(k), (int, float))}
    if document.get("do_sample") is False:
        found["temperature"] = 0.0
    return found


def embed_texts(loaded: LoadedModel, texts: Sequence[str]) -> tuple[list[list[float]], int]:
    """Vectors of ``texts`` and the tokens they had. Raises ValueError."""
    import mlx.core as mx

    limit = loaded.context or 512
    encoded = loaded.tokenizer(list(texts), padding=True, return_tensors="np")
    length = int(encoded["attention_mask"].sum(axis=1).max())
    if length > limit:
        raise ValueError(f"an input has {length} tokens; this model takes {limit}")
    output = loaded.model(mx.array(encoded["input_ids"]), attention_mask=mx.array(encoded["attention_mask"]))
    vectors = getattr(output, "text_embeds", None)
    if vectors is None:
        raise ValueError("this model gives no embeddings")
    mx.eval(vectors)
    return vectors.tolist(), int(encoded["attention_mask"].sum())
