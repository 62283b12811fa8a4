"""Bring a model from a folder or a GGUF file among the models of this machine, checked before it counts."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from sidecar.backend import loader, trust
from sidecar.errors import LoadError
from sidecar.models import gguf
from sidecar.models.downloads.selection import wanted
from sidecar.models.gguf import GGUFError, Progress

_NAME = re.compile(r"[A-Za-z0-9][\w.\-]{0,99}")
_HEADROOM = 1 << 30


class ImportFailed(Exception):
    """A model that is not imported; the message says why."""


def run(
    source: Path,
    models: Path,
    *,
    name: str | None = None,
    link: bool = False,
    taken: frozenset[str] = frozenset(),
    progress: Progress,
) -> Path:
    """The folder of the imported model in ``models``. ``link``: leave a folder where it is. Raises ImportFailed.

    It is loaded once before it gets its name, so that what is listed also works.
    """
    name = name or re.sub(r"[^\w.\-]+", "-", source.stem if source.is_file() else source.resolve().name).strip("-.")
    if not _NAME.fullmatch(name):
        raise ImportFailed(f"{name!r} can't be a model's name: letters, digits, dot, dash. Choose one with --name.")
    target = models / name
    if name in taken or target.exists():
        raise ImportFailed(f"There is a model {name!r} already. Choose another with --name, or: mlx-sidecar rm {name}")
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=models) as work:
            made = Path(work) / name
            if source.is_dir():
                _folder(source, made, link=link, progress=progress)
            elif source.is_file():
                _gguf(source, made, progress)
            else:
                raise ImportFailed(f"{source}: there is no such file or folder.")
            loader.load(made, lambda part: progress("loading", round(part * 100), 100))
            made.rename(target)
    except (LoadError, GGUFError) as exc:
        raise ImportFailed(f"{source} can't be imported: {exc}") from exc
    except OSError as exc:
        raise ImportFailed(f"{models}: can't be written ({exc.strerror or exc}).") from exc
    return target


def _folder(source: Path, made: Path, *, link: bool, progress: Progress) -> None:
    config = loader.read_config(source)
    trust.refuse_code(source, config)
    _check_architecture(str(config["model_type"]), loader.is_embedding(source, config))
    files = [p for p in sorted(source.rglob("*")) if p.is_file() and not _hidden(p, source)]
    if not any(p.suffix == ".safetensors" for p in files):
        raise ImportFailed(f"{source} has no .safetensors weights; convert it first (mlx_vlm.convert does).")
    if link:
        made.symlink_to(source.resolve(), target_is_directory=True)
        return
    files = [p for p in files if wanted(PurePosixPath(p.relative_to(source).as_posix()))]
    total = sum(p.stat().st_size for p in files)
    _check_space(made.parent, total)
    done = 0
    for path in files:
        to = made / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        done += path.stat().st_size
        progress("copying", done, total)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _gguf(source: Path, made: Path, progress: Progress) -> None:
    import mlx.core as mx

    quantized = mx.metal.is_available()
    # 4 bit blocks become 32 bit numbers on a CPU: eight times the file.
    _check_space(made.parent, source.stat().st_size * (1 if quantized else 8))
    gguf.convert(source, made, quantized=quantized, progress=progress)
    (made / "source.json").write_text(json.dumps({"gguf": source.name}), "utf-8")


def _check_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need + _HEADROOM > free:
        raise ImportFailed(
            f"{folder} has {free // 1_000_000} MB free and up to {(need + _HEADROOM) // 1_000_000} MB are needed. "
            "Free some space, choose another disk with --data-dir, or leave a folder where it is with --link."
        )


def _check_architecture(kind: str, embedding: bool) -> None:
    from sidecar.backend import families

    if not embedding and not families.known(kind):  # an embedding model's loader knows which; the load asks it
        raise ImportFailed(f"Its architecture {kind!r} is not one this program has.")
