"""What a folder of Mach-O files promises about the machines it runs on, read from the files themselves.

Nothing here runs a Mach-O or needs a Mac: the load commands say which processor and which macOS a file wants, where it
looks for its libraries, and whether it is signed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from macholib.mach_o import (
    CPU_TYPE_NAMES,
    LC_BUILD_VERSION,
    LC_CODE_SIGNATURE,
    LC_LOAD_DYLIB,
    LC_LOAD_WEAK_DYLIB,
    LC_REEXPORT_DYLIB,
    LC_RPATH,
    LC_VERSION_MIN_MACOSX,
)
from macholib.MachO import MachO

THIN = {b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xfe\xed\xfa\xce"}
FAT = {b"\xca\xfe\xba\xbe", b"\xbe\xba\xfe\xca", b"\xca\xfe\xba\xbf", b"\xbf\xba\xfe\xca"}
SYSTEM = ("/usr/lib/", "/System/")
RELATIVE = ("@rpath/", "@loader_path", "@executable_path")


@dataclass(frozen=True)
class Header:
    """One architecture of a Mach-O file. ``lowest``: the least macOS, as (major, minor), or None where none is said."""

    arch: str
    lowest: tuple[int, int] | None
    libraries: tuple[str, ...]
    run_paths: tuple[str, ...]
    signed: bool


def is_macho(path: Path) -> bool:
    """Return whether a file begins as a Mach-O does. Java's classes begin as fat ones do, and have a version there."""
    with path.open("rb") as file:
        start = file.read(8)
    if start[:4] in FAT:
        return start[:4] not in (b"\xca\xfe\xba\xbe",) or int.from_bytes(start[4:8], "big") < 20
    return start[:4] in THIN


def files(folder: Path) -> Iterator[Path]:
    """Yield every regular file under ``folder``, sorted; what links lead to is found in its own place."""
    yield from (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink())


def machos(folder: Path) -> list[Path]:
    """Return the Mach-O files of a folder, inside out: the deepest first, programs after the libraries beside them."""
    found = [p for p in files(folder) if is_macho(p)]
    return sorted(found, key=lambda p: (-len(p.parts), p.suffix == "", str(p)))


def headers(path: Path) -> list[Header]:
    """Return the architectures of a Mach-O file. Raises ValueError for one that can't be read."""
    try:
        return [_header(one) for one in MachO(str(path)).headers]
    except ValueError:
        raise
    except Exception as exc:  # macholib raises whatever its struct reading meets
        raise ValueError(f"{path} can't be read as Mach-O: {exc}") from exc


def _header(header: object) -> Header:
    arch = CPU_TYPE_NAMES.get(header.header.cputype, str(header.header.cputype))  # type: ignore[attr-defined]
    lowest: tuple[int, int] | None = None
    libraries, run_paths, signed = [], [], False
    for load, command, data in header.commands:  # type: ignore[attr-defined]
        if load.cmd in (LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB):
            libraries.append(data.rstrip(b"\0").decode())
        elif load.cmd == LC_RPATH:
            run_paths.append(data.rstrip(b"\0").decode())
        elif load.cmd == LC_CODE_SIGNATURE:
            signed = True
        elif load.cmd in (LC_BUILD_VERSION, LC_VERSION_MIN_MACOSX):
            number = int(command.minos if load.cmd == LC_BUILD_VERSION else command.version)
            lowest = (number >> 16, number >> 8 & 255)
    return Header(
        {"ARM64": "arm64", "x86_64": "x86_64"}.get(arch, arch), lowest, tuple(libraries), tuple(run_paths), signed
    )


def problems(folder: Path, *, lowest: tuple[int, int], names: Sequence[str] = ()) -> list[str]:
    """Return what keeps a folder from running on any Apple Silicon Mac from ``lowest`` on: a line for each fault.

    ``names`` are words of the build machine (a home folder, a host name) that no file may contain.
    """
    out: list[str] = []
    found = machos(folder)
    if not found:
        out.append(f"{folder} holds no Mach-O file at all")
    for path in found:
        out += [f"{path.relative_to(folder)}: {text}" for text in _file_problems(path, lowest)]
    for library in folder.rglob("libmlx.dylib"):
        if not library.with_name("mlx.metallib").exists():
            out.append(f"{library.relative_to(folder)}: mlx.metallib is not beside it, so MLX finds no kernels")
    for link in (p for p in folder.rglob("*") if p.is_symlink()):
        target = link.resolve()
        if not target.exists():
            out.append(f"{link.relative_to(folder)}: leads to {link.readlink()}, which isn't there")
        elif not target.is_relative_to(folder.resolve()):
            out.append(f"{link.relative_to(folder)}: leads out of the folder, to {target}")
    words = [name.encode() for name in names if len(name) > 3]
    for path in files(folder) if words else ():
        data = path.read_bytes()
        out += [
            f"{path.relative_to(folder)}: contains {w.decode()!r}, of the build machine" for w in words if w in data
        ]
    return out


def _file_problems(path: Path, lowest: tuple[int, int]) -> Iterator[str]:
    try:
        parts = headers(path)
    except ValueError as exc:
        yield str(exc)
        return
    if len(parts) != 1:
        yield f"holds {len(parts)} architectures; only arm64 is built: no universal programs"
    for part in parts:
        if part.arch != "arm64":
            yield f"is for {part.arch}, not for arm64"
        if part.lowest is None:
            yield "doesn't say which macOS it needs"
        elif part.lowest > lowest:
            needs, promised = (".".join(map(str, v)) for v in (part.lowest, lowest))
            yield f"needs macOS {needs}; {promised} is promised (a wheel for a newer macOS came in: see tools/setup.sh)"
        for name in (*part.libraries, *part.run_paths):
            if name.startswith("/") and not name.startswith(SYSTEM):
                yield f"looks for {name}, which is on the build machine alone"
