"""The arrows of docs/concepts/architecture.md hold: which folder may import which, and what an import brings along."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GROUND = "ground"  # the files beside the folders
LIGHT = {"host_api.protocol", "host_api.loopback"}  # what the server may use of a host, everywhere

# One line a folder: it may import what is named after it, and itself.
SIDECAR = {
    "entry": {"cli", "process"},
    "cli": {"process", "api", "text", "models", "engine", "backend", GROUND},
    "process": {"api", "text", "models", "engine", "backend", GROUND},
    "api": {"text", "models", "engine", "backend", GROUND},
    "text": {"engine", "backend", GROUND},
    "models": {"engine", "backend", GROUND},
    "engine": {"backend", GROUND},
    "backend": {GROUND},
    GROUND: set[str](),
}
HOST = {
    "app": {GROUND, "loopback", "protocol"},
    GROUND: {"protocol"},
    "loopback": set[str](),
    "protocol": set[str](),
}
APP = {
    "routes": {"sidecar", "chat", "documents", "models", "data", GROUND},
    "sidecar": {"models", "data", GROUND},
    "chat": {"documents", "models", "data", GROUND},
    "documents": {"models", "data", GROUND},
    "models": {"data", GROUND},
    "data": {GROUND},
    GROUND: {"routes", "sidecar", "chat", "documents", "models", "data"},  # puts the service together
}


def imported(path: Path) -> Iterator[str]:
    """Yield the full dotted name of everything a file imports at run time, anywhere in it."""
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
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def folder_of(name: str, package: str) -> str:
    """Return the room of a dotted name: the folder under ``package``, or the ground for a file beside the folders."""
    first = name.removeprefix(package).lstrip(".").split(".")[0]
    if first == "entry":
        return "entry"
    return first if (ROOT / Path(*package.split(".")) / first).is_dir() and first else GROUND


def files(package: str) -> Iterator[tuple[str, Path]]:
    """Yield dotted name and path of each module under ``package``."""
    top = ROOT / Path(*package.split("."))
    for path in sorted(top.rglob("*.py")):
        if "node_modules" not in path.parts:
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


@pytest.mark.parametrize(
    ("package", "arrows"),
    [("sidecar", SIDECAR), ("host_api", HOST), ("host_api.app", APP)],
    ids=["sidecar", "host_api", "host_api.app"],  # a set's order differs from process to process: never a name of it
)
def test_imports_go_one_way(package: str, arrows: dict[str, set[str]]) -> None:
    wrong = []
    for name, path in files(package):
        here = folder_of(name, package)
        assert here in arrows, f"{name} stands in {here}, which has no line in the table of arrows"
        for other in imported(path):
            if other == package or not other.startswith(f"{package}."):
                continue
            there = folder_of(other, package)
            if there != here and there not in arrows[here] and not (package == "host_api" and name == "host_api.cli"):
                wrong.append(f"{name} imports {other}: no arrow from {here} to {there}")
    assert not wrong, "\n".join(wrong)


def test_the_server_takes_the_protocol_of_a_host_and_a_host_nothing_of_the_server() -> None:
    for name, path in files("sidecar"):
        for other in imported(path):
            if other.startswith("host_api") and folder_of(name, "sidecar") != "cli":
                assert ".".join(other.split(".")[:2]) in LIGHT, f"{name} imports {other}"
    for name, path in files("host_api"):
        assert not [other for other in imported(path) if other.split(".")[0] == "sidecar"], name


def test_one_room_alone_knows_mlx_vlm() -> None:
    pattern = re.compile(r"^\s*(from|import) mlx_vlm|import_module\(.mlx_vlm", re.MULTILINE)
    outside = [
        name
        for name, path in files("sidecar")
        if folder_of(name, "sidecar") != "backend" and pattern.search(path.read_text())
    ]
    assert not outside


def test_the_protocol_needs_the_standard_library_alone() -> None:
    for name, path in files("host_api.protocol"):
        for other in imported(path):
            top = other.split(".")[0]
            assert top in sys.stdlib_module_names or other.startswith("host_api.protocol"), f"{name} imports {other}"


def modules_in_a_circle(package: str) -> list[str]:
    """Return the modules of ``package`` that import each other at import time, in a circle, sorted."""
    known = dict(files(package))
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text())
        names: set[str] = set()
        for node in tree.body:  # imports inside functions come later
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    names.add(full if full in known else node.module)
        graph[name] = {n for n in names if n in known and n != name}
    while True:
        ends = {name for name, to in graph.items() if not to & graph.keys()}
        if not ends:
            return sorted(graph)
        graph = {name: to - ends for name, to in graph.items() if name not in ends}


@pytest.mark.parametrize("package", ["sidecar", "host_api"])
def test_no_circle_of_imports(package: str) -> None:
    left = modules_in_a_circle(package)
    assert not left


def loaded_after(code: str) -> set[str]:
    """Return the top-level names in sys.modules after ``code`` in a fresh interpreter."""
    program = f"import sys\n{code}\nprint(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_the_core_of_the_host_is_light() -> None:
    loaded = loaded_after("import host_api")
    assert not loaded & {"mlx", "fastapi", "httpx", "psutil", "numpy", "pydantic"}


def test_the_server_brings_no_mlx_before_a_model() -> None:
    loaded = loaded_after("import sidecar.process.server, sidecar.api.app, sidecar.api.service, sidecar.engine.thread")
    assert not loaded & {"mlx", "mlx_vlm", "transformers", "numpy", "PIL", "huggingface_hub", "llguidance", "httpx"}


def test_files_are_short() -> None:
    long = {
        name: lines
        for package in ("sidecar", "host_api")
        for name, path in files(package)
        if (lines := len(path.read_text().splitlines())) > 330
    }
    assert not long


def test_functions_are_short() -> None:
    long = {
        f"{name}.{node.name}": length
        for package in ("sidecar", "host_api")
        for name, path in files(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > 60
    }
    assert not long


def test_the_front_of_the_server_is_small() -> None:
    entries = [p for p in (ROOT / "sidecar").iterdir() if p.name != "__pycache__"]
    assert len([p for p in entries if p.is_dir()]) <= 9
    assert len([p for p in entries if p.is_file()]) <= 6


def test_a_chat_of_the_host_loads_no_prices() -> None:
    program = (
        "import sys, host_api.app.chat.agent as agent\n"
        "agent.OpenAIChatModel('x', provider=agent.OpenAIProvider(base_url='http://127.0.0.1:1/v1', api_key='k'))\n"
        "print('genai_prices.data' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
