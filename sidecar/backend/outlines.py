"""transformers reads the sources of all its models when it is imported, twice; here it does once.

It learns from them what each module exports, and remembers it by the path it was given: the folder of the models for
``transformers``, a file in that folder for ``transformers.models``. 0.2 s of an engine's start from source, 0.04 s of
the frozen program's, whose sources are outlines.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_READER = "transformers.utils.import_utils"


class _Finder(MetaPathFinder):
    """Finds the module that reads, once, as whoever comes after it in line does, and amends it when it was run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if name != _READER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            amend(module)

        loader.exec_module = exec_module
        return spec


def amend(module: Any) -> None:
    """Let the reader take a folder and a file in it for the same."""
    read = getattr(module, "create_import_structure_from_path", None)
    if read is None:  # another version: it does as it likes
        return

    @wraps(read)
    def of_folder(module_path: Any) -> Any:
        path = Path(module_path)
        return read(str(path.parent if path.is_file() else path))

    module.create_import_structure_from_path = of_folder


@cache
def read_once() -> None:
    """Amend transformers' reader when it is imported. Call before transformers is; later it changes nothing."""
    if _READER not in sys.modules:
        sys.meta_path.insert(0, _Finder())
