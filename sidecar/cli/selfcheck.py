"""Import everything that is found by name at run time and say what can't be: a frozen build's completeness."""

from __future__ import annotations

import contextlib
import importlib
import io
import pkgutil
from typing import Any

_PACKAGES = ("mlx_vlm.models", "mlx_vlm.speculative.drafters", "mlx_vlm.tools.parsers")


def check() -> dict[str, str]:
    """Each module's or class's name and "ok" or its error: model families, drafters, tool parsers, processors."""
    results: dict[str, str] = {}
    for package in _PACKAGES:
        root = importlib.import_module(package)
        for module in sorted(pkgutil.iter_modules(root.__path__, package + "."), key=lambda m: m.name):
            results[module.name] = _try(lambda name=module.name: importlib.import_module(name))
    results |= _transformers()
    return results


def _transformers() -> dict[str, str]:
    """transformers' configurations, tokenizers, processors and image processors of every architecture it knows."""
    results: dict[str, str] = {}
    import transformers
    from transformers.models.auto import (
        configuration_auto,
        image_processing_auto,
        processing_auto,
        tokenization_auto,
    )

    tables = {
        "config": configuration_auto.CONFIG_MAPPING_NAMES,
        "processor": processing_auto.PROCESSOR_MAPPING_NAMES,
        "tokenizer": tokenization_auto.TOKENIZER_MAPPING_NAMES,
        "image": image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES,
    }
    for kind, table in tables.items():
        for architecture, names in sorted(dict(table).items()):
            for name in _names(names):
                results[f"{kind}:{architecture}:{name}"] = _try(lambda name=name: getattr(transformers, name))
    return results


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [n for n in value if isinstance(n, str)] if isinstance(value, (list, tuple)) else []


def _try(load: Any) -> str:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            load()
    except BaseException as exc:
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            raise
        root = exc
        while root.__cause__ is not None:
            root = root.__cause__
        text = str(root).strip().splitlines()
        return f"{type(root).__name__}: {text[0] if text else ''}"[:300]
    return "ok"
