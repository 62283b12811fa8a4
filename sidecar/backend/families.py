"""What a loaded model can do, as a record that the engine asks in place of the family's name.

Each entry is "" for yes, or the reason for a no. What the architecture itself tells is written down at load; what only
a try can tell comes from the self-check after it, or from a batch that breaks while the model serves.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any

EARS = ("audio_tower", "audio_model", "audio_encoder", "sound_encoder", "embed_audio", "apm", "thinker")
"""Attributes under which mlx-vlm's families have what hears."""
_FROM_ENCODER = ("cross_attention_states", "encoder_outputs")


@dataclass(eq=False, kw_only=True)
class Capabilities:
    """What one loaded model can; "" means that it can, anything else is the reason why not.

    ``cut``: a prompt processed in pieces; ``cut_pictures``: one with pictures. ``group``: several prompts processed
    together, padded on the left. ``batch``: several rows decoded in one pass. ``keep``: prefixes kept for a next turn.
    ``mix``: pieces of prompts in the
    pass of rows. ``rewind``: tokens taken back out of the cache. ``see``: pictures. ``hear``: sound. ``converse``: more
    than the last message of a conversation.
    """

    cut: str = ""
    cut_pictures: str = ""
    group: str = ""
    batch: str = ""
    mix: str = ""
    keep: str = ""
    converse: str = ""
    rewind: str = ""
    see: str = ""
    hear: str = ""

    def rule_out(self, name: str, reason: str) -> bool:
        """Write down that the model can't do ``name``; return whether that is news."""
        if getattr(self, name):
            return False
        setattr(self, name, reason)
        return True

    def document(self) -> dict[str, bool | str]:
        """Return the record for people and clients: true, or the reason for a no."""
        return {f.name: getattr(self, f.name) or True for f in fields(self)}


def inspect(model: Any, processor: Any, config: dict[str, Any], problems: Sequence[str]) -> Capabilities:
    """Return what a loaded model's own parts tell. ``problems``: why its own processor could not be built, if so."""
    from sidecar.backend import caches, mixing, processors
    from sidecar.backend.passes import PromptBatch
    from sidecar.backend.positions import embed

    can = Capabilities(hear=_deaf(model, processor))
    language = getattr(model, "language_model", model)
    if not (config.get("vision_config") or hasattr(model, "vision_tower")):
        can.see = "it is a model of text alone"
    elif not hasattr(processor, "tokenizer"):
        why = f" ({problems[0][:200]})" if problems else ""
        can.see = f"its image processor could not be built{why}"
    if processors.forgets_messages(processor, model.config):
        can.converse = "the model's template keeps the last message alone"
    if kinds := caches.without_rewind(model):
        can.rewind = f"its caches can't take tokens back ({', '.join(kinds)})"
    reads = signature(type(language).__call__).parameters
    if states := [name for name in _FROM_ENCODER if name in reads]:
        for name in ("cut", "cut_pictures", "group", "batch", "keep"):
            can.rule_out(name, f"its rows need an encoder's states ({', '.join(states)})")
    tokens = [1, 2, 3]
    prompt = embed(model, tokens)
    if PromptBatch(model, [0], [tokens], [prompt]).whole:
        for name in (
            "cut",
            "cut_pictures",
            "group",
            "batch",
            "keep",
        ):  # joined rows differ too, by less than a check sees
            can.rule_out(name, "by its own rule a prompt is processed whole")
    places = prompt.kwargs.get("position_ids")
    if places is not None and places.ndim == 3 and places.shape[0] != 3:
        for name in ("group", "batch"):
            can.rule_out(name, f"its positions have {places.shape[1]} axes, which rows can't share")
    if reason := can.batch or can.cut or mixing.install(model):
        can.rule_out("mix", reason)
    return can


def _deaf(model: Any, processor: Any) -> str:
    """Return why a model doesn't hear, "" where it does."""
    try:
        takes = set(signature(getattr(processor, "process", processor)).parameters)
    except (TypeError, ValueError):
        takes = set()
    if not {"audio", "audios"} & takes:
        return "it is a model without ears"
    if all(getattr(model, name, None) is None for name in EARS):
        return "it comes without the part that hears"
    if getattr(processor, "feature_extractor", True) is None:
        return "its sound processor could not be built"
    if not sound_ids(model.config):
        return "its configuration doesn't say which token stands for a sound"
    return ""


def sound_ids(config: Any) -> frozenset[int]:
    """Return the tokens that stand for sounds in a prompt; of pictures mlx-vlm knows them itself."""
    names = ("audio_token_id", "audio_token_index", "sound_context_token_id")
    found = (getattr(config, name, None) for name in names)
    return frozenset(token for token in found if isinstance(token, int))


def known(model_type: str) -> bool:
    """Return whether mlx-vlm has an architecture of that name, or of the name it stands for."""
    from mlx_vlm.utils import MODEL_REMAPPING

    module = str(MODEL_REMAPPING.get(model_type, model_type))
    return bool(re.fullmatch(r"\w+", module)) and importlib.util.find_spec(f"mlx_vlm.models.{module}") is not None
