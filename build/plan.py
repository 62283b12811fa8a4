"""What goes into the frozen program and what stays out, and why. Imported by build/mlx_sidecar.spec."""

from __future__ import annotations

import ast
import atexit
import importlib.metadata as metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

COLLECTION_MODE = {"transformers": "pyz"}
"""Bytecode only; what transformers reads of its own sources comes from ``transformers_outlines``."""

OUT = {
    "cv2": "video only",
    "zstandard": "compressed answers of hubs, which are not asked for",
    "tiktoken": "other people's tokenizer files",
    "pi_heif": "the host service's documents",
    "resvg_py": "the host service's documents",
    "watchfiles": "the host service's folders, uvicorn's reload",
    "lxml": "the host service's documents",
    "rpds": "jsonschema, in tests",
    "jsonschema": "tests",
    "mcp": "the host service",
    "anthropic": "tests",
    "agents": "tests",
    "langchain_core": "tests",
    "langchain_openai": "tests",
    "langsmith": "tests",
    "llm": "tests",
    "pandas": "datasets only",
    "pyarrow": "datasets only",
    "datasets": "training only",
    "scipy": "audio features only",
    "mlx_audio": "audio only",
    "miniaudio": "audio only",
    "sklearn": "generation statistics of transformers, with torch",
    "sounddevice": "audio only",
    "cryptography": "mlx-vlm's server only",
    "hf_xet": "a faster download where the hub has it; plain HTTP does the same",
    "aiohttp": "asynchronous hub file systems only",
    "multidict": "aiohttp",
    "yarl": "aiohttp",
    "frozenlist": "aiohttp",
    "propcache": "aiohttp",
    "PIL.ImageTk": "never",
    "PIL._avif": "AVIF is not among the formats taken",
    "PIL._imagingft": "drawing text",
    "readline": "the interactive Python prompt",
    "sqlite3": "the host service",
    "torch": "never: MLX is the engine",
    "torchvision": "never",
    "tensorflow": "never",
    "flax": "never",
    "jax": "never",
    "matplotlib": "never",
    "IPython": "never",
    "tkinter": "never",
    "pytest": "tests",
    "hypothesis": "tests",
    "openai": "tests",
    "litellm": "tests",
    "mypy": "tests",
    "setuptools": "build",
    "pip": "build",
    "gradio": "mlx-vlm's demo page",
    "sqlmodel": "the host service",
    "sqlalchemy": "the host service",
    "pydantic_ai": "the host service",
    "lancedb": "the host service",
}
"""Packages left out, with who would need them."""

MLX_VLM_OUT = ("mlx_vlm.chat_ui", "mlx_vlm.tests", "mlx_vlm.evals")


WITH = {"video": {"cv2"}, "audio": {"mlx_audio", "miniaudio", "sounddevice", "scipy"}}
"""What MLX_SIDECAR_WITH=video,audio builds in."""


def excludes() -> list[str]:
    """Packages the analysis must not follow."""
    wanted = os.environ.get("MLX_SIDECAR_WITH", "")
    back = set().union(*(WITH[part] for part in wanted.split(",") if part))
    return sorted(set(OUT) - back)


def hidden_imports() -> list[str]:
    """Modules imported by name at run time: MLX's own, mlx-vlm's families, drafters, tool parsers."""
    names = [
        "uvicorn.protocols.http.h11_impl",
        "uvicorn.loops.asyncio",
        "uvicorn.lifespan.off",
        "uvicorn.protocols.websockets.auto",
    ]
    names += collect_submodules("sidecar")
    names += ["huggingface_hub.hf_api", "huggingface_hub.file_download", "huggingface_hub.utils._cache_manager"]
    names += mlx_modules()
    names += ["_cffi_backend"]  # which libsodium's binding imports from C
    for package in ("models", "speculative", "tools", "generate"):
        names += collect_submodules(f"mlx_vlm.{package}", filter=_wanted, on_error="ignore")
    names += transformers_modules()
    return sorted(set(names))


def mlx_modules() -> list[str]:
    """MLX's Python modules and its extension, listed, not imported: a second import registers its types twice."""
    root = _folder("mlx")
    names = ["mlx.core", "mlx._reprlib_fix"]
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        if "share" in parts or "include" in parts or "_distributed_utils" in parts:
            continue
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def transformers_modules() -> list[str]:
    """The parts of transformers that work without torch: configurations, tokenizers, processors."""
    root = _folder("transformers")
    names = []
    for path in sorted((root / "models").rglob("*.py")):
        if _transformers_part(path.stem):
            parts = path.relative_to(root.parent).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def _transformers_part(stem: str) -> bool:
    return not stem.startswith(("modeling_", "modular_", "convert_", "generation_")) or stem.endswith("_auto")


def _wanted(name: str) -> bool:
    return not name.startswith(MLX_VLM_OUT) and ".tests" not in name


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def datas(root: Path) -> list[tuple[str, str]]:
    """Data files: the catalogue, the starter's parts, metadata of packages that are asked for their version."""
    found = [(str(root / "sidecar" / "models" / "catalogue.json"), "sidecar/models")]
    eyes = "sidecar/models/starter/vision"
    found += [(str(root / eyes / "eyes.safetensors"), eyes)]
    found += transformers_outlines()
    found += collect_data_files("mlx_vlm", excludes=["**/*.py", "**/tests/**", "**/evals/**"])
    for name in bundled_names():
        found += copy_metadata(name)
    return found


def bundled_names() -> list[str]:
    """Names of the distributions that go in: what the sidecar needs, without what is left out."""
    out = {name.lower().replace("_", "-") for name in OUT} | {"opencv-python"}
    names = _needed("mlx-sidecar", {"sidecar"}) - out
    installed = {d.metadata["Name"].lower().replace("_", "-") for d in metadata.distributions()}
    return sorted(names & installed)


def _needed(root: str, extras: set[str]) -> set[str]:
    seen: set[tuple[str, str]] = set()
    todo = [(root, extra) for extra in {"", *extras}]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for text in requirements:
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                key = need.name.lower().replace("_", "-")
                todo += [(key, e) for e in {"", *need.extras}]
    return {name for name, _ in seen}


def transformers_outlines() -> list[tuple[str, str]]:
    """Outlines of transformers' model sources: it reads them at run time to learn what each module exports.

    An outline has the exports and requirements alone; the code is in the archive as bytecode. The outlines are
    compared with the sources by transformers' own reader.
    """
    from transformers.utils.import_utils import create_import_structure_from_path as read

    root = _folder("transformers")
    out = Path(tempfile.mkdtemp(prefix="outlines-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    bare = Path(tempfile.mkdtemp(prefix="sources-"))
    atexit.register(shutil.rmtree, bare, ignore_errors=True)
    found = [(str(root / "__init__.py"), "transformers")]  # which it runs a second time, from its source
    for path in sorted((root / "models").rglob("*.py")):
        if not _transformers_part(path.stem):
            continue
        inside = path.relative_to(root)
        for folder, text in ((out, outline(path.read_text("utf-8"))), (bare, path.read_text("utf-8"))):
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            (folder / inside).write_text(text, "utf-8")
        found.append((str(out / inside), str(Path("transformers") / inside.parent)))
    if read(str(out / "models")) != read(str(bare / "models")):
        raise SystemExit("the outlines of transformers' sources say something else than the sources")
    return found


def outline(source: str) -> str:
    """What transformers' reader looks for in a source: ``__all__`` and what ``@requires`` decorates."""
    tree = ast.parse(source)
    lines = source.splitlines()
    out = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            out.append(ast.get_source_segment(source, node) or "")
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            decorated = "requires" in ast.dump(ast.List(node.decorator_list))
            if decorated or any("Torchvision" in ast.unparse(b) for b in getattr(node, "bases", ())):
                out += [*lines[first - 1 : node.lineno], "    pass", ""]
    return "\n".join(out) + "\n"


def metal(mlx: Path | None = None) -> list[tuple[str, str, str]]:
    """PyInstaller's entries for ``mlx.metallib``: beside every libmlx there will be; none on Linux.

    MLX looks for it beside the libmlx that was loaded. PyInstaller puts a link to libmlx at the top, which a
    bundler may turn into a second copy; so a link to the Metal library goes there too.
    """
    folder = mlx or _folder("mlx")
    out: list[tuple[str, str, str]] = []
    for library in sorted(folder.rglob("mlx.metallib")):
        inside = (Path("mlx") / library.relative_to(folder)).as_posix()
        out += [(inside, str(library), "DATA"), ("mlx.metallib", inside, "SYMLINK")]
    return out


def kept_modules(pure: list[Any]) -> list[Any]:
    """Python modules without those that need torch."""
    return [entry for entry in pure if not _torch_module(entry[0])]


def _torch_module(name: str) -> bool:
    if not name.startswith("transformers."):
        return name.startswith(MLX_VLM_OUT)
    parts = name.split(".")
    if parts[1] == "models":
        return not _transformers_part(parts[-1]) and len(parts) > 3
    return parts[1] in (
        "trainer",
        "training_args",
        "pipelines",
        "quantizers",
        "kernels",
        "cli",
        "data",
        "onnx",
        "distributed",
    )


def kept_datas(found: list[Any]) -> list[Any]:
    """Data files without sources of modules left out, headers, type stubs and CMake files."""
    out = []
    for entry in found:
        target = entry[0].replace("\\", "/")
        if target.endswith((".h", ".hpp", ".pyi", ".cmake", ".metal", ".a", ".pxd", ".pyx")) or "/tests/" in target:
            continue
        out.append(entry)
    return out


def kept_binaries(found: list[Any]) -> list[Any]:
    """Native libraries without those only an excluded extension needs."""
    dropped = ("libavif-", "libharfbuzz-", "libfreetype-", "libbrotli", "libreadline", "libtinfo")
    return [entry for entry in found if not Path(entry[0]).name.startswith(dropped)]


if __name__ == "__main__":
    sys.stdout.write("\n".join(hidden_imports()) + "\n")
