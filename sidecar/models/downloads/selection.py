"""Which of a model's files are needed here. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from sidecar.models.downloads import HubFile, PullError, human

HEADROOM = 1 << 30
"""Bytes of the disk that a pull leaves free."""

_SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken"}
_LICENCES = {"license", "licence", "notice", "copying"}
_OTHER_FORMATS = {"onnx", "openvino", "coreml", "original", "gguf", "metal", "tf", "flax", "runs", "logs", "assets"}
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}\.safetensors")


def needed(files: Iterable[HubFile]) -> tuple[HubFile, ...]:
    """The files this program uses, configuration first and weights last.

    Weights last, so that what has all its weights has everything. Raises PullError when there are no usable weights
    or a name leads out of the folder.
    """
    files = tuple(files)
    for file in files:
        check_name(file.path)
    kept = [f for f in files if wanted(PurePosixPath(f.path))]
    weights = {f.path for f in kept if f.path.endswith(".safetensors")}
    twice = _twice(weights)
    kept = [f for f in kept if f.path not in twice]
    names = {f.path for f in kept}
    if "config.json" not in names or not any("/" not in n and n.endswith(".safetensors") for n in names):
        raise PullError(_unusable(files), code="unusable", status=422)
    return tuple(sorted(kept, key=lambda f: (f.path.endswith(".safetensors"), f.path)))


def check_name(path: str) -> None:
    """Refuse a file name that would leave the model's folder. Raises PullError."""
    parts = PurePosixPath(path).parts
    odd = any(ord(c) < 32 or c in "\\\x7f" for c in path)
    if not parts or path.startswith("/") or odd or any(p in ("..", ".") or len(p) > 200 for p in parts):
        raise PullError(f"The hub names a file {path!r}, which is not a name inside a model.", code="unusable")


def wanted(path: PurePosixPath) -> bool:
    """Return whether a model's file is of use here: data that this program reads, or the licence. Never code."""
    folders = {p.lower() for p in path.parts[:-1]}
    if folders & _OTHER_FORMATS or any(p.startswith(".") for p in path.parts):
        return False
    if path.stem.lower() in _LICENCES and path.suffix.lower() in ("", ".txt", ".md"):
        return True
    return path.suffix in _SUFFIXES


def _twice(weights: set[str]) -> set[str]:
    """Weights that are in the folder a second time, in another cut."""
    out = set()
    stems = {m["stem"] for w in weights if (m := _SHARD.fullmatch(w))}
    for stem in stems:
        if f"{stem}.safetensors" in weights:
            out.add(f"{stem}.safetensors")
    rest = {w for w in weights if not w.startswith("consolidated")}
    if any("/" not in w for w in rest):
        out |= weights - rest
    return out


def _unusable(files: tuple[HubFile, ...]) -> str:
    if any(f.path.endswith(".gguf") for f in files):
        return "This model has GGUF files only. Fetch one of them and run: mlx-sidecar import FILE.gguf"
    return "This model has no config.json with .safetensors weights beside it: it can't be used here."


def check_disk(missing: int, free: int, folder: str) -> None:
    """Refuse a pull that leaves less than HEADROOM free. Sizes in bytes. Raises PullError."""
    if missing and missing + HEADROOM > free:
        short = missing + HEADROOM - free
        raise PullError(
            f"{folder} has {human(free)} free; {human(missing)} are to be fetched and {human(HEADROOM)} stay free. "
            f"Free {human(short)}, or choose another disk with --cache-dir.",
            code="disk_full",
            status=507,
        )
