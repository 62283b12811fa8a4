"""Load a model folder, on the engine's thread. What can't be loaded is one clear error."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sidecar.backend import families, outlines, processors, trust
from sidecar.backend.families import Capabilities
from sidecar.backend.folder import (
    check_safetensors,
    context_length,
    is_embedding,
    is_ranker,
    read_config,
    sampling_defaults,
)
from sidecar.errors import LoadError, OutOfMemory, ran_out_of_memory

__all__ = ["LoadedModel", "check_safetensors", "context_length", "is_embedding", "load", "read_config"]

Progress = Callable[[float], None]
"""Called with the part done, 0 to 1."""


@dataclass(eq=False, kw_only=True)
class LoadedModel:
    """A model in memory. ``context``: tokens of prompt and answer together, 0 when unknown.

    ``ranks``: a cross-encoder among the embedding models, which scores documents and gives no vectors.
    """

    path: Path
    kind: str  # "chat" or "embedding"
    model: Any
    processor: Any
    tokenizer: Any
    config: dict[str, Any]
    eos: tuple[int, ...]
    media_ids: frozenset[int]
    context: int
    ranks: bool = False
    can: Capabilities = field(default_factory=Capabilities)
    defaults: dict[str, Any] = field(default_factory=dict)  # of sampling
    checks: dict[str, str] = field(default_factory=dict)  # what the look after the load compared, and how it came out
    turned_off: dict[str, str] = field(default_factory=dict)  # by that look: what, and why

    @property
    def model_type(self) -> str:
        """The architecture, as mlx-vlm names it."""
        return str(self.config.get("model_type", ""))

    @property
    def sees(self) -> bool:
        """Whether it takes images."""
        return not self.can.see


def load(path: Path, progress: Progress, *, remember: Path | None = None, thorough: bool = False) -> LoadedModel:
    """Load the model in folder ``path`` and look at what it can. Raises LoadError; what was loaded of it is let go.

    ``remember``: the file in which the findings of looking at a chat model are kept. ``thorough``: look anew and at
    everything, however long it takes.
    """
    import mlx.core as mx

    settle()
    config = read_config(path)
    trust.refuse_code(path, config)
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise LoadError(f"{path} has no .safetensors weights.")
    for file in weights:
        check_safetensors(file)
    progress(0.02)
    try:
        if is_embedding(path, config):
            return _load_embedding(path, config, progress)
        return _load_chat(path, config, progress, remember, thorough=thorough)
    except LoadError:
        raise
    except (MemoryError, OutOfMemory) as exc:
        gc.collect()
        raise LoadError(f"{path.name} does not fit into memory.") from exc
    except Exception as exc:
        gc.collect()
        if ran_out_of_memory(exc):
            raise LoadError(f"{path.name} does not fit into memory.") from exc
        text = str(exc).strip().splitlines()[0][:300] if str(exc).strip() else type(exc).__name__
        if "not supported" in text.lower():
            text = f"its architecture {config['model_type']!r} is not supported by this version ({text})"
        raise LoadError(f"{path.name} can't be loaded: {text}") from exc
    finally:
        # Layers draw random numbers that the weights replace: unevaluated, the generator's state would keep them all.
        mx.eval(mx.random.state)
        mx.clear_cache()


@cache
def settle() -> None:
    """Import what every load needs, and keep the collector away from it: a look at all of it takes half a second.

    A running answer would wait for that at every unload.
    """
    outlines.read_once()
    import mlx_vlm.embedding_loader
    import mlx_vlm.utils

    _ = (mlx_vlm.embedding_loader, mlx_vlm.utils)
    trust.harden()
    processors.collect_claims()
    gc.freeze()  # not collected before: imports leave no garbage to speak of, and the look took 0.1 s of a first answer
    atexit.register(gc.unfreeze)  # else libraries complain of leaks at the end


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


def _output_is_embedding(path: Path) -> bool:
    """Return whether the output layer's weights and the embedding's are the same bytes of one file.

    So they are in a folder that was put together for an architecture without tied weights out of a model with them.
    """
    head, embed = "language_model.lm_head.weight", "language_model.embed_tokens.weight"
    for file in path.glob("*.safetensors"):
        places = check_safetensors(file)
        if head in places and places[head] == places.get(embed):
            return True
    return False


def share_output_layer(model: Any) -> bool:
    """Let the output layer of a loaded model use the embedding's memory; return whether it does.

    Call it before the weights are evaluated: the second copy is then never read (113 MB of the starter in float32).
    """
    language = getattr(model, "language_model", None)
    head, embed = getattr(language, "lm_head", None), getattr(language, "embed_tokens", None)
    if head is None or embed is None or head.weight.shape != embed.weight.shape:
        return False
    head.weight = embed.weight
    return True


def _load_chat(
    path: Path, config: dict[str, Any], progress: Progress, remember: Path | None, *, thorough: bool
) -> LoadedModel:
    from mlx_vlm import apc, utils

    from sidecar.backend import repairs, selfcheck

    progress(0.1)
    with processors.own_processor(f"mlx_vlm.models.{utils.get_model_type(config)}") as problems:
        model, processor = utils.load(str(path), lazy=True)
    repairs.mend(str(utils.get_model_type(config)))
    if _output_is_embedding(path):
        share_output_layer(model)
    progress(0.3)
    _evaluate(model, lambda part: progress(0.95 * part), 0.3)
    tokenizer = getattr(processor, "tokenizer", processor)
    eos = tuple(dict.fromkeys(int(i) for i in tokenizer.stopping_criteria.eos_token_ids))
    loaded = LoadedModel(
        path=path,
        kind="chat",
        model=model,
        processor=processor,
        tokenizer=tokenizer,
        config=config,
        eos=eos,
        media_ids=frozenset(apc.multimodal_token_ids_from_config(model.config)) | families.sound_ids(model.config),
        context=context_length(config),
        can=families.inspect(model, processor, config, problems),
        defaults=sampling_defaults(path),
    )
    report = selfcheck.check(loaded, remember=remember, between=lambda: progress(0.97), thorough=thorough)
    loaded.checks, loaded.turned_off = report.lines, report.failed
    return loaded


def _load_embedding(path: Path, config: dict[str, Any], progress: Progress) -> LoadedModel:
    from mlx_vlm.embedding_loader import load_embedding_model
    from mlx_vlm.reranker_loader import load_sequence_classification_model

    ranks = is_ranker(config)
    # The tokenizer has nothing to do with MLX: another thread reads it, and a chat goes on meanwhile.
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_reader, path, config)
        progress(0.1)
        if ranks:
            model = load_sequence_classification_model(path, lazy=True)
        else:
            kind = str(config.get("model_type"))
            model = load_embedding_model(path, lazy=True, config=config | {"model_type": _EMBEDDING.get(kind, kind)})
        progress(0.3)
        _evaluate(model, progress, 0.3)
        while not reading.done():
            wait([reading], timeout=0.005)
            progress(1.0)
        processor = reading.result()
    tokenizer = getattr(processor, "tokenizer", processor)
    can = Capabilities()
    if getattr(processor, "image_processor", None) is None:
        can.see = "it is a model of text alone"
    return LoadedModel(
        path=path,
        kind="embedding",
        model=model,
        processor=processor,
        tokenizer=tokenizer,
        config=config,
        can=can,
        eos=(),
        ranks=ranks,
        media_ids=frozenset(),
        context=context_length(config),
    )


_EMBEDDING = {"qwen3_vl": "qwen3_vl_embedding"}
"""Architectures of models of embeddings that are published under the name of the chat model they were made from."""


def _reader(path: Path, config: dict[str, Any]) -> Any:
    """Return what reads texts for a model of embeddings: its tokenizer, or the processor of one that sees."""
    if not config.get("vision_config"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(path))
    from mlx_vlm import utils

    with processors.own_processor(f"mlx_vlm.models.{utils.get_model_type(config)}"):
        return utils.load_processor(path, add_detokenizer=False)


def embed_picture(loaded: LoadedModel, inputs: dict[str, Any]) -> tuple[list[list[float]], int]:
    """Return the vector of a picture by the processor's arrays of it, and the tokens it had. Raises ValueError."""
    import mlx.core as mx

    from sidecar.backend.positions import Positions

    with Positions().installed(loaded.model.language_model):  # else positions of the picture before are taken
        vectors: Any = getattr(loaded.model(**inputs), "text_embeds", None)
        if vectors is None:
            raise ValueError("this model gives no embeddings of images")
        mx.eval(vectors)
    return vectors.tolist(), int(inputs["input_ids"].size)


def embed_texts(loaded: LoadedModel, texts: Sequence[str], query: str = "") -> tuple[list[list[float]], int, int]:
    """Return vectors of ``texts``, the tokens they had together, and those of the longest.

    Of a cross-encoder, in place of vectors, how well each answers ``query``, 0 to 1. Raises ValueError.
    """
    import mlx.core as mx

    from sidecar.backend.positions import Positions

    limit = loaded.context or 512
    if loaded.ranks:  # XLM-RoBERTa's first two positions are nobody's; its tokenizer knows
        limit = min(limit, loaded.tokenizer.model_max_length)
    pairs = ([query] * len(texts), list(texts)) if loaded.ranks else (list(texts),)
    encoded = loaded.tokenizer(*pairs, padding=True, return_tensors="np")
    length = int(encoded["attention_mask"].sum(axis=1).max())
    if length > limit:
        what = "the query and a document have" if loaded.ranks else "an input has"
        raise ValueError(f"{what} {length} tokens; this model takes {limit}")
    more = {"attention_mask": mx.array(encoded["attention_mask"])}
    if loaded.ranks and "token_type_ids" in encoded:  # which of the two texts a token is of
        more["token_type_ids"] = mx.array(encoded["token_type_ids"])
    with Positions().installed(getattr(loaded.model, "language_model", loaded.model)):
        output = loaded.model(mx.array(encoded["input_ids"]), **more)
    vectors: Any = mx.sigmoid(output.logits) if loaded.ranks else getattr(output, "text_embeds", None)
    if vectors is None:
        raise ValueError("this model gives no embeddings")
    mx.eval(vectors)
    return vectors.tolist(), int(encoded["attention_mask"].sum()), length
