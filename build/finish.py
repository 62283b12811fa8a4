"""After PyInstaller: strip what gains by it, put OpenBLAS in, collect licences, an SBOM and a manifest."""

from __future__ import annotations

import hashlib
import importlib.metadata as metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build"))
import plan  # noqa: E402

# Packages whose libraries are as the linker made them. A repaired wheel's (it has a `.libs` folder) can't be loaded any
# more once it was stripped: patchelf leaves sections where strip doesn't look for them.
UNREPAIRED = ("tokenizers", "yaml", "regex", "pypdfium2_raw", "safetensors", "msgspec", "nacl")

WHY = {
    "pypdfium2_raw": "PDF files in conversations",
    "numpy.libs": "OpenBLAS: numpy's, and through a shim MLX's matrix products",
    "numpy": "images to arrays, grammar masks, tokenizers' arrays",
    "mlx": "the engine",
    "mlx-sidecar": "the program with all Python modules as bytecode, compressed",
    "transformers": "what it reads of its own sources: exports of model modules",
    "mlx_cpu.libs": "LAPACK and its Fortran runtime, which libmlx links to",
    "pillow.libs": "JPEG, WebP, TIFF, PNG codecs",
    "PIL": "image decoding",
    "sidecar": "the starter model's eyes (18.6 MB: a model part)",
    "tokenizers": "tokenization",
    "llguidance": "structured output",
    "libpython3.11.so.1.0": "Python itself",
    "python3.11": "Python's extension modules",
    "pydantic_core": "request validation",
    "libcrypto.so.3": "TLS for downloads, hashes",
    "libssl.so.3": "TLS for downloads",
    "tiktoken": "tokenizers of some families",
    "sentencepiece": "tokenizers of some families",
    "sentencepiece.libs": "tokenizers of some families",
    "yaml": "hub metadata",
    "regex": "tokenizers of some families",
    "libstdc++.so.6": "C++ runtime",
    "base_library.zip": "Python's start-up modules",
    "nacl": "the cipher of what is kept on disk",
    "safetensors": "weights",
    "psutil": "memory figures, names of programs on ports",
    "certifi": "TLS roots",
}


def main(dist: Path) -> int:
    """Finish ``dist/mlx-sidecar``; a single file beside it is left as it is."""
    app = dist / "mlx-sidecar"
    inside = app / "_internal"
    if platform.system() == "Linux":
        strip(inside)
        openblas(inside)
    drop(inside)
    licences(app)
    sbom(app)
    listing(inside)
    manifest(app, dist)
    report(app)
    return 0


def strip(inside: Path) -> None:
    """Take symbols out of Python's own libraries and of wheels that need no others; the rest must stay as they are."""
    own = [*inside.glob("libpython*"), *inside.glob("python3*/lib-dynload/*.so")]
    own += [p for p in inside.glob("lib*.so*") if not p.is_symlink() and p not in own]
    own += [path for name in UNREPAIRED for path in (inside / name).rglob("*.so")]
    for path in own:
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=False, capture_output=True)


def openblas(inside: Path) -> None:
    """Put a shim in place of MLX's BLAS that leads matrix products to numpy's OpenBLAS."""
    libs = inside / "mlx_cpu.libs"
    blas = next(libs.glob("libblas-*.so*"))
    fast = next((inside / "numpy.libs").glob("libscipy_openblas64_*"))
    reference = libs / "libblas-reference.so"
    if not reference.exists():
        blas.rename(reference)
        patchelf = Path(sys.executable).with_name("patchelf")
        subprocess.run([str(patchelf), "--set-soname", reference.name, str(reference)], check=True)
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise SystemExit("a C compiler is needed to put OpenBLAS in: apt-get install gcc libc6-dev")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(blas), str(ROOT / "build" / "cblas_shim.c")]
    command += [f"-Wl,-soname,{blas.name}", "-Wl,--no-as-needed", str(reference), str(fast)]
    # Found from its own folder and, through PyInstaller's link or a copy of it, from the folder above.
    places = ":".join(f"$ORIGIN{up}" for up in ("", "/../numpy.libs", "/mlx_cpu.libs", "/numpy.libs"))
    command += ["-Wl,--disable-new-dtags", f"-Wl,-rpath,{places}", "-Wl,--build-id=none"]
    subprocess.run(command, check=True)
    subprocess.run(["strip", str(blas)], check=False, capture_output=True)
    # A library named by its path is recorded by its path where it has no soname.
    needed = subprocess.run(["readelf", "-d", str(blas)], capture_output=True, text=True, check=True).stdout
    if "/" in "".join(line for line in needed.splitlines() if "NEEDED" in line):
        raise SystemExit(f"the BLAS shim names libraries by path:\n{needed}")


def drop(inside: Path) -> None:
    """Remove metadata of packages that are not in."""
    keep = set(plan.bundled_names())
    for folder in inside.glob("*.dist-info"):
        if folder.name.partition("-")[0].lower().replace("_", "-").replace(".", "-") not in keep:
            shutil.rmtree(folder)
        else:
            for file in folder.iterdir():
                if file.is_dir():
                    shutil.rmtree(file)  # licences are in THIRD_PARTY_LICENSES
                elif file.name not in ("METADATA", "top_level.txt", "entry_points.txt"):
                    file.unlink()


def bundled() -> list[metadata.Distribution]:
    """The distributions whose modules or libraries are in the frozen program, by name."""
    return [metadata.distribution(name) for name in plan.bundled_names()]


def licences(app: Path) -> None:
    """Write THIRD_PARTY_LICENSES: every licence text the bundled packages carry."""
    parts = [f"Python {platform.python_version()}\n\n{_python_licence()}"]
    for dist in bundled():
        texts = []
        for file in dist.files or []:
            name = file.name.upper()
            if (
                name.startswith(("LICEN", "COPYING", "NOTICE", "AUTHORS"))
                and (path := Path(str(file.locate()))).is_file()
            ):
                texts.append(path.read_text("utf-8", "replace").strip())
        label = _field(dist, "License-Expression") or _field(dist, "License") or "see below"
        head = f"{dist.metadata['Name']} {dist.version}: {label.strip().splitlines()[0]}"
        parts.append("\n\n".join([head, *dict.fromkeys(texts)]))
    (app / "THIRD_PARTY_LICENSES").write_text(("\n\n" + "=" * 100 + "\n\n").join(parts) + "\n", "utf-8")


def _field(dist: metadata.Distribution, name: str) -> str:
    fields: Any = dist.metadata  # its type promises less than the object can
    return str(fields.get(name) or "")


def _python_licence() -> str:
    for folder in (Path(sys.base_prefix) / "lib" / f"python3.{sys.version_info.minor}", Path(sys.base_prefix)):
        for name in ("LICENSE.txt", "LICENSE"):
            if (folder / name).is_file():
                return (folder / name).read_text("utf-8")
    import _sitebuiltins

    return "PSF-2.0 " + str(_sitebuiltins.__doc__ or "")


def sbom(app: Path) -> None:
    """Write sbom.cdx.json (CycloneDX 1.6)."""
    components: list[dict[str, Any]] = []
    for dist in bundled():
        name, version = dist.metadata["Name"], dist.version
        component: dict[str, Any] = {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name.lower()}@{version}",
            "bom-ref": f"pkg:pypi/{name.lower()}@{version}",
        }
        if expression := _field(dist, "License-Expression"):
            component["licenses"] = [{"expression": expression}]
        components.append(component)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "name": "mlx-sidecar", "version": metadata.version("mlx-sidecar")}
        },
        "components": components,
    }
    (app / "sbom.cdx.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def files(app: Path) -> Iterator[Path]:
    """Every file and link of the program, sorted."""
    return iter(sorted(p for p in app.rglob("*") if p.is_symlink() or p.is_file()))


def listing(inside: Path) -> None:
    """Write what the program compares itself with when it starts (sidecar/process/whole.py): names and sizes."""
    sizes = {str(path.relative_to(inside)): path.stat().st_size for path in files(inside)}
    (inside / "files.json").write_text(json.dumps(sizes, indent=0, sort_keys=True) + "\n", "utf-8")


def manifest(app: Path, dist: Path) -> None:
    """Write manifest.json beside the folder: versions, and size and SHA-256 of every file."""
    entries: dict[str, dict[str, Any]] = {}
    for path in files(app):
        name = str(path.relative_to(app))
        if path.is_symlink():
            entries[name] = {"link": str(path.readlink())}
        else:
            entries[name] = {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    versions = {d.metadata["Name"]: d.version for d in bundled()}
    document = {
        "name": "mlx-sidecar",
        "version": metadata.version("mlx-sidecar"),
        "python": platform.python_version(),
        "platform": f"{platform.system().lower()}-{platform.machine()}",
        "packages": versions,
        "size": sum(e.get("size", 0) for e in entries.values()),
        "files": entries,
    }
    (dist / "manifest.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", "utf-8")


def report(app: Path) -> None:
    """Print the total and the twenty largest parts with the reason each is in."""
    sizes: dict[str, int] = {}
    for path in files(app):
        if not path.is_symlink():
            parts = path.relative_to(app).parts
            key = parts[1] if parts[0] == "_internal" else parts[0]
            sizes[key] = sizes.get(key, 0) + path.stat().st_size
    total = sum(sizes.values())
    lines = [f"{app}: {total / 1e6:.0f} MB"]
    for name, size in sorted(sizes.items(), key=lambda s: -s[1])[:20]:
        lines.append(f"{size / 1e6:7.1f} MB  {name:<26} {WHY.get(name, '')}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
