"""The arrows of docs/architecture.md hold: who may import whom, and what an import brings along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SIDECAR = [  # each layer may import from its own and those below
    {"entry"},
    {"cli"},
    {"modelcommands"},
    {"server", "terminal", "selfcheck", "starter.install", "starter.embedding", "importing"},
    {"lifecycle", "app"},
    {"routes.chat", "routes.completions", "routes.embeddings", "routes.models", "routes.health", "routes.common"},
    {"generation", "sse"},
    {"service", "guard"},
    {"residency", "registry", "downloads.manager"},
    {"downloads.pull"},
    {"downloads.transfer"},
    {"engine"},
    {"core"},
    {"kv", "batches"},
    {"prompting", "prefill", "prefix_cache", "loader", "vision", "rows", "starter.text", "starter.vision"},
    {"scheduler", "sampling", "speculation", "constraints", "output", "images", "schemas", "logs", "starter.source"},
    {"downloads.store", "downloads.selection", "downloads.meter", "downloads.hub"},
    {"errors", "metrics", "requests", "config", "costs", "starter", "downloads", "aliases", "gguf"},
    {"files", "paths", "durations", "memory", "pressure", "warmstart", "routes", "onefile", ""},
]
HOST = [
    {"cli", "conformance"},
    {""},
    {"host"},
    {"supervisor"},
    {"observe"},
    {"config"},
    {"launcher", "probe", "client"},
    {"lock", "errors"},
    {"state_dir", "identity", "backoff"},
    {"ownership"},
]
ALLOWED_OF_HOST = {"ownership", "identity", "lock", "state_dir"}


def imports_of(path: Path, package: str) -> set[str]:
    """Modules of ``package`` a file imports, anywhere in it, as dotted names inside the package."""
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            inside = node.module.partition(".")[2]
            for alias in node.names:
                deeper = f"{inside}.{alias.name}".strip(".")
                here = ROOT / package / Path(*deeper.split("."))
                found.add(deeper if here.with_suffix(".py").exists() or here.is_dir() else inside)
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.split(".")[0] == package}
    return found


def modules(package: str, *, without: str = "") -> dict[str, Path]:
    """Dotted name inside the package → file."""
    out = {}
    for path in (ROOT / package).rglob("*.py"):
        inside = path.relative_to(ROOT / package).with_suffix("")
        name = ".".join(inside.parts).removesuffix("__init__").rstrip(".")
        if not without or not name.startswith(without):
            out[name] = path
    return out


@pytest.mark.parametrize(("package", "layers", "without"), [("sidecar", SIDECAR, ""), ("host_api", HOST, "app")])
def test_imports_go_one_way(package: str, layers: list[set[str]], without: str) -> None:
    rank = {name: i for i, layer in enumerate(layers) for name in layer}
    for name, path in modules(package, without=without).items():
        assert name in rank, f"{package}.{name} has no place in the layers; give it one"
        for other in imports_of(path, package):
            if package == "host_api" and other.startswith("app"):
                assert name == "cli", f"host_api.{name} imports the host application"
                continue
            assert rank[other] >= rank[name], f"{package}.{name} imports {package}.{other}, which lies above it"


def test_the_sidecar_takes_four_modules_of_the_host_and_the_host_none_of_it() -> None:
    for name, path in modules("sidecar").items():
        assert imports_of(path, "host_api") <= ALLOWED_OF_HOST, name
    for name, path in modules("host_api").items():
        assert not imports_of(path, "sidecar"), name


def loaded_after(code: str) -> set[str]:
    """Top-level names in sys.modules after ``code`` in a fresh interpreter."""
    program = f"import sys\n{code}\nprint(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_the_core_of_the_host_is_light() -> None:
    loaded = loaded_after("import host_api")
    assert not loaded & {"mlx", "fastapi", "httpx", "psutil", "numpy", "pydantic"}


def test_the_server_brings_no_mlx_before_a_model() -> None:
    loaded = loaded_after("import sidecar.server, sidecar.app, sidecar.service, sidecar.engine")
    assert not loaded & {"mlx", "mlx_vlm", "transformers", "numpy", "PIL", "huggingface_hub", "llguidance", "httpx"}


def test_files_are_short() -> None:
    long = {
        f"{package}/{name}": lines
        for package in ("sidecar", "host_api")
        for name, path in modules(package).items()
        if (lines := len(path.read_text().splitlines())) > 420
    }
    assert not long
