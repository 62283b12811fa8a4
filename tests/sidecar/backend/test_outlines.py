"""transformers' look at its own sources: once, and with the same outcome."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
from sidecar.backend import outlines
outlines.read_once()
import transformers, transformers.models, transformers.utils.import_utils as reader
from pathlib import Path
read = reader.create_import_structure_from_path.__wrapped__
folder = str(Path(transformers.__file__).parent / "models")
assert read.cache_info().hits == 1, "transformers.models found it read"
assert read(folder) == read.__wrapped__(folder + "/__init__.py")
assert transformers.models.auto.AutoConfig is transformers.AutoConfig
"""


def test_the_sources_are_read_once_and_say_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
