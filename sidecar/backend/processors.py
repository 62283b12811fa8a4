"""Tokenizers and picture processors of a loaded model: built, and used for prompts.

mlx-vlm gives its processors to transformers' ``AutoProcessor`` by patching it whenever a family's module is imported:
the patch that came last wins, for some families' names too (``granite_vision`` takes over ``llava_next``), and where a
processor can't be built the reason is swallowed and the bare tokenizer comes in its place, so that pictures are dropped
in silence. Here the patches are written down instead, a family's own is used for it, and the reason is kept.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

_claims: dict[str, list[tuple[str, type]]] = {}  # model type -> modules that claim it, and the processor each gives it


@cache
def collect_claims() -> None:
    """Write down from now on which family brings which processor. Call before a family's module is imported."""
    from mlx_vlm.models import base

    install = base.install_auto_processor_patch

    def claim(target_model_types: str | Sequence[str], processor_cls: type) -> Any:
        names = [target_model_types] if isinstance(target_model_types, str) else target_model_types
        for name in names:
            _claims.setdefault(name.lower(), []).append((sys._getframe(1).f_globals["__name__"], processor_cls))
        return install(target_model_types, processor_cls)  # for whoever loads without us

    base.install_auto_processor_patch = claim


def claimed(model_type: str) -> type | None:
    """Return the processor class for a family: its own module's if several claim it."""
    from mlx_vlm.utils import MODEL_REMAPPING

    name = model_type.lower()
    classes = _claims.get(name, [])
    module = f"mlx_vlm.models.{MODEL_REMAPPING.get(name, name)}."
    own = [claim for claim in classes if f"{claim[0]}.".startswith(module)]
    return (own or classes)[-1][1] if classes else None


@contextmanager
def own_processor(module: str) -> Iterator[list[str]]:
    """Let ``AutoProcessor`` build the processor of the family in ``module`` and no other's while the block runs.

    Gives a list that the reason comes into, if the family's own processor can't be built.
    """
    from transformers import AutoProcessor

    collect_claims()
    with suppress(ImportError):  # told by who loads the model
        importlib.import_module(module)
    chain = AutoProcessor.from_pretrained
    reasons: list[str] = []

    def build(cls: Any, path: Any, /, **kwargs: Any) -> Any:
        kwargs["trust_remote_code"] = False
        own = claimed(_model_type(path))
        if own is not None:
            try:
                return own.from_pretrained(path, **kwargs)  # type: ignore[attr-defined]
            except Exception as exc:
                reasons.append(f"{type(exc).__name__}: {str(exc).strip().splitlines()[0] if str(exc).strip() else ''}")
        return chain.__func__(cls, path, **kwargs)

    AutoProcessor.from_pretrained = classmethod(build)
    try:
        yield reasons
    finally:
        AutoProcessor.from_pretrained = chain


def _model_type(path: Any) -> str:
    try:
        return str(json.loads((Path(path) / "config.json").read_text("utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def forgets_messages(processor: Any, config: Any) -> bool:
    """Return whether the model's template keeps the last message of a conversation alone."""
    from mlx_vlm.prompt_utils import apply_chat_template

    said = [("user", "alpha7"), ("assistant", "beta7"), ("user", "gamma7")]
    try:
        messages = [{"role": role, "content": content} for role, content in said]
        text = apply_chat_template(processor, config, messages, num_images=0)
    except Exception:
        return False  # refused rather than forgotten
    return isinstance(text, str) and "gamma7" in text and "alpha7" not in text
