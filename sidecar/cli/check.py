"""``mlx-sidecar check``: load a model, compare what it gives in company with the same alone, and say what it can."""

from __future__ import annotations

import gc
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from sidecar.cli.screen import progress_bar
from sidecar.config import Settings
from sidecar.errors import LoadError
from sidecar.models.registry import ModelNotFound, Registry

TURNED_OFF = 4
"""Exit status for a model that serves, but not in every way that its architecture has."""

_WAYS = {
    "cut": "process a prompt in pieces",
    "cut_pictures": "process a prompt with pictures in pieces",
    "group": "process several prompts together",
    "mix": "process pieces of prompts in the pass of running answers",
    "batch": "answer several requests in one pass",
    "keep": "keep a conversation's beginning for its next turn",
    "converse": "see more than the last message",
    "rewind": "take tokens back",
    "see": "see pictures",
    "hear": "hear sound",
}
_ALONE = 0.01  # how far apart an embedding's vectors may be alone and in company, by cosine
_TEXTS = ("a cat", "The quick brown fox jumps over the lazy dog.", "Rain falls because warm air rises and cools.")


def check(name: str, settings: Settings, *, as_json: bool) -> int:
    """Look at a model folder, or a model by a name that ``mlx-sidecar models`` lists, and print what was found.

    Returns 0 where nothing differs, 1 where it can't be loaded, ``TURNED_OFF`` where something was turned off.
    """
    folder = Path(name).expanduser()
    try:
        path = folder.resolve() if folder.is_dir() else Registry(settings).resolve(name).path
        document = examine(path, settings.data_dir / "checked-models.json")
    except (ModelNotFound, LoadError) as exc:
        if as_json:
            sys.stdout.write(json.dumps({"model": name, "loads": False, "error": str(exc)}, ensure_ascii=False) + "\n")
        else:
            sys.stderr.write(f"mlx-sidecar: {exc}\n")
        return 1
    document = {"model": name, **document}
    sys.stdout.write((json.dumps(document, ensure_ascii=False) if as_json else _text(document)) + "\n")
    return TURNED_OFF if document["turned_off"] else 0


def examine(path: Path, remember: Path) -> dict[str, Any]:
    """Load the model in a folder and return what was found of it. Raises LoadError.

    The findings go into ``remember`` where that is a file or can be made one: the server's next load reads them there.
    """
    from sidecar.backend import loader

    logging.getLogger("sidecar.engine").setLevel(logging.ERROR)  # what is turned off is said below
    began = time.monotonic()
    with progress_bar() as progress:
        loaded = loader.load(
            path,
            lambda part: progress("loading", round(part * 100), 100),
            remember=remember if remember.parent.is_dir() else None,
            thorough=True,
        )
    turned_off: dict[str, str] = {}
    can: dict[str, Any] = {}
    checks = loaded.checks
    if loaded.kind == "embedding":
        checks, turned_off = _vectors(loaded)
    else:
        can = loaded.can.document()
        turned_off = loaded.turned_off
    document = {
        "path": str(path),
        "loads": True,
        "kind": loaded.kind,
        "architecture": loaded.model_type,
        "context_length": loaded.context or None,
        "seconds": round(time.monotonic() - began, 2),
        "checks": checks,
        "can": can,
        "turned_off": turned_off,
    }
    del loaded
    gc.collect()
    return document


def _vectors(loaded: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Compare an embedding model's vectors, or a cross-encoder's scores, of texts in one batch with each alone."""
    from sidecar.backend.loader import embed_texts

    query = _TEXTS[0]
    together = embed_texts(loaded, _TEXTS, query)[0]
    alone = [embed_texts(loaded, [text], query)[0][0] for text in _TEXTS]
    if loaded.ranks:
        what, how = "texts ranked together", "scores at most {} apart"
        apart = max(abs(a[0] - b[0]) for a, b in zip(together, alone, strict=True))
    else:
        what, how = "texts embedded together", "vectors at most {} apart by cosine"
        apart = max(1 - _cosine(a, b) for a, b in zip(together, alone, strict=True))
    same = apart <= _ALONE  # never so for NaN
    found = f"{'same' if same else 'differs'}: {how.format(f'{max(apart, 0):.2g}')}, {_ALONE} allowed"
    return {what: found}, {} if same else {"batch": f"{what}: {found}"}


def _cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def _text(document: dict[str, Any]) -> str:
    context = f", {document['context_length']} tokens of context" if document["context_length"] else ""
    lines = [f"{document['model']}: {document['architecture']}, {document['kind']}{context}", f"  {document['path']}"]
    lines += ["", "Compared with the same alone:"]
    lines += [f"  {what:<32} {found}" for what, found in document["checks"].items()]
    if not document["checks"]:
        lines.append("  nothing: by its architecture it works on one request at a time")
    if document["can"]:
        lines += ["", "It can:"]
        lines += [f"  yes  {_WAYS[way]}" for way, why in document["can"].items() if why is True]
        lines += [f"  no   {_WAYS[way]}: {why}" for way, why in document["can"].items() if why is not True]
    off = document["turned_off"]
    end = "Nothing differs." if not off else f"Turned off, and answers are right without it: {', '.join(off)}."
    return "\n".join([*lines, "", f"{end} Looked at in {document['seconds']:.1f} s."])
