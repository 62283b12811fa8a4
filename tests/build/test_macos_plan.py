"""What can be checked of the macOS build here: the real wheels' layout, unpacked. Nothing of it runs here."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sidecar.models.starter.source import Wheel, fetch

ROOT = Path(__file__).resolve().parent.parent.parent
WHEELS = [
    Wheel(
        "mlx",
        "mlx-0.32.4-cp311-cp311-macosx_14_0_arm64.whl",
        "dd0c9070d9c362fe280a0224806b1b47719b154984735041ebcc907e597c08ca",
        671_764,
    ),
    Wheel(
        "mlx-metal",
        "mlx_metal-0.32.4-py3-none-macosx_14_0_arm64.whl",
        "8019b2db622599267d66cc168b2f0dbf5af929790a6c3b3913e00eabc42a7947",
        44_958_619,
    ),
]


@pytest.fixture(scope="module")
def mlx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``mlx`` folder of the macOS wheels (lowest tag, macOS 14), side by side as pip installs them."""
    kept = Path.home() / ".cache" / "mlx-sidecar-dev" / "wheels"
    folder = tmp_path_factory.mktemp("macos")
    for wheel in WHEELS:
        with zipfile.ZipFile(fetch(kept, index_url=None, progress=lambda *_: None, wheel=wheel)) as archive:
            archive.extractall(folder)
    return folder / "mlx"


def build(mlx: Path, target: Path) -> None:
    """The part of a frozen folder that concerns MLX, as PyInstaller lays it out: files in place, links at the top."""
    import plan

    entries: list[tuple[str, Any, str]] = list(plan.metal(mlx))
    entries += [(f"mlx/{p.relative_to(mlx)}", str(p), "BINARY") for p in [*mlx.glob("*.so"), *mlx.rglob("*.dylib")]]
    entries += [(p.name, f"mlx/{p.relative_to(mlx)}", "SYMLINK") for p in mlx.rglob("*.dylib")]
    for name, source, kind in entries:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "SYMLINK":
            place.symlink_to(source)
        else:
            os.link(source, place)


def load_commands(path: Path) -> dict[str, list[str]]:
    """Run paths, libraries and the lowest system of a Mach-O file."""
    from macholib.mach_o import LC_BUILD_VERSION, LC_ID_DYLIB, LC_LOAD_DYLIB, LC_RPATH
    from macholib.MachO import MachO

    names = {LC_RPATH: "rpath", LC_LOAD_DYLIB: "needs", LC_ID_DYLIB: "id"}
    found: dict[str, list[str]] = {"rpath": [], "needs": [], "id": [], "lowest": []}
    for header in MachO(str(path)).headers:
        for load, command, data in header.commands:
            if load.cmd in names:
                found[names[load.cmd]].append(data.rstrip(b"\0").decode())
            elif load.cmd == LC_BUILD_VERSION:
                version = int(command.minos)
                found["lowest"].append(f"{version >> 16}.{version >> 8 & 255}")
    return found


def test_the_metal_library_is_beside_every_libmlx(mlx: Path, tmp_path: Path) -> None:
    build(mlx, tmp_path / "app")
    subprocess.run(["cp", "-rL", str(tmp_path / "app"), str(tmp_path / "copy")], check=True)
    for folder in ("app", "copy"):
        libraries = list((tmp_path / folder).rglob("libmlx.dylib"))
        assert len(libraries) == 2
        for library in libraries:
            beside = library.with_name("mlx.metallib")
            assert beside.exists(), library
            assert beside.stat().st_size > 100_000_000
    links = [p for p in (tmp_path / "app").rglob("mlx.metallib") if p.is_symlink()]
    assert [p.parent for p in links] == [tmp_path / "app"]
    shutil.rmtree(tmp_path / "copy")


def test_libmlx_is_found_by_the_extension_and_runs_from_macos_14(mlx: Path) -> None:
    extension = load_commands(next(mlx.glob("core*.so")))
    library = load_commands(mlx / "lib" / "libmlx.dylib")
    assert "@rpath/libmlx.dylib" in extension["needs"]
    assert library["id"] == ["@rpath/libmlx.dylib"]
    assert "@loader_path/lib" in extension["rpath"]
    assert extension["lowest"] == library["lowest"] == ["14.0"]
    system = ("@rpath/", "/usr/lib/", "/System/")
    foreign = [n for n in [*extension["needs"], *library["needs"]] if not n.startswith(system)]
    assert foreign == []
