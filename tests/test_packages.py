"""The sdist and the wheel made of it: whole, typed, licensed, and clear about what a bare environment lacks."""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sidecar
from host_api import extras

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the source distribution, built from a copy of what git knows, as from a fresh clone."""
    work = tmp_path_factory.mktemp("clone")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        source = ROOT / name
        if name.startswith(("training/", "examples/", "src-tauri-snippets/", "tests/")) or not source.is_file():
            continue
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).hardlink_to(source)
    return built("build_sdist", work, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel built from the source distribution alone."""
    work = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    return built("build_wheel", next(work.iterdir()), tmp_path_factory.mktemp("wheel"))


def built(hook: str, source: Path, out: Path) -> Path:
    """Call a hook of the build backend in ``source``, as a frontend does, and return the file it made in ``out``."""
    code = f"import setuptools.build_meta as backend; backend.{hook}({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, timeout=120)
    (made,) = out.iterdir()
    return made


def core() -> set[str]:
    """Return the distributions that come with ``pip install mlx-sidecar`` here, without any extra."""
    found: set[str] = set()
    todo = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    while todo:
        need = Requirement(todo.pop())
        if (need.marker is None or need.marker.evaluate({"extra": ""})) and need.name not in found:
            found.add(need.name)
            todo += metadata.requires(need.name) or []
    return found


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scripts' folder of an environment with the wheel and its core dependencies, as pip would make it."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    site = next((folder / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in core():
        for file in metadata.distribution(name).files or ():
            if not file.parts[0].startswith(".."):
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                (site / file).symlink_to(Path(str(file.locate())))
    for script, target in (("mlx-sidecar", "sidecar.entry"), ("mlx-host", "host_api.cli")):
        path = folder / "bin" / script
        path.write_text(f"#!{folder}/bin/python\nimport sys\nfrom {target} import main\nsys.exit(main())\n")
        path.chmod(0o755)
    return folder / "bin"


def run(program: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program with an empty environment."""
    env = {"HOME": str(program.parent), "PATH": "/usr/bin:/bin"}
    return subprocess.run([program, *args], capture_output=True, text=True, timeout=60, env=env)


def test_the_distributions_hold_what_users_need(sdist: Path, wheel: Path) -> None:
    assert sdist.name == f"mlx_sidecar-{sidecar.__version__}.tar.gz"
    assert wheel.name == f"mlx_sidecar-{sidecar.__version__}-py3-none-any.whl"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICE", "README.md", "pyproject.toml", "sidecar/py.typed"} <= names
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        text = archive.read(f"mlx_sidecar-{sidecar.__version__}.dist-info/METADATA").decode()
    modules = {str(p.relative_to(ROOT)) for top in ("sidecar", "host_api") for p in (ROOT / top).rglob("*.py")}
    assert {m for m in modules if "node_modules" not in m} <= inside
    data = {"sidecar/models/catalogue.json", "sidecar/models/catalogue.schema.json"}
    data |= {"sidecar/models/starter/vision/eyes.safetensors", "host_api/app/web/dist/index.html"}
    data |= {"sidecar/py.typed", "host_api/py.typed"}
    assert data <= inside
    assert {f"mlx_sidecar-{sidecar.__version__}.dist-info/licenses/{name}" for name in ("LICENSE", "NOTICE")} <= inside
    assert not [n for n in inside if "node_modules" in n or "package-lock" in n or n.startswith(("tests/", "tools/"))]
    assert "License-Expression: Apache-2.0" in text


def test_the_names_asked_for_are_those_of_the_extras() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    provided: dict[str, set[str]] = {}
    for module, names in metadata.packages_distributions().items():
        for name in names:
            provided.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(module)
    for extra, modules in extras.MODULES.items():
        for need in map(Requirement, declared[extra]):
            given = provided.get(re.sub(r"[-_.]+", "-", need.name).lower())
            if need.marker is None or need.marker.evaluate():
                assert given, f"{need.name} is not installed"
                assert given & set(modules), f"[{extra}] {need.name} brings {given}, which nobody asks for"
        for module in modules:
            assert not module.startswith("_"), module


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--port", "0"],
        ["chat", "hello"],
        ["models"],
        ["pull", "starter"],
        ["import", "x.gguf"],
        ["rm", "x"],
        ["starter", "install"],
        ["selfcheck"],
    ],
    ids=lambda w: w[0],
)
def test_a_bare_install_says_which_extra_is_missing(bare: Path, words: list[str]) -> None:
    done = run(bare / "mlx-sidecar", *words)
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert f"mlx-sidecar {words[0]} needs packages that are not installed (fastapi" in done.stderr
    assert "pip install 'mlx-sidecar[sidecar]'" in done.stderr


def test_a_bare_host_service_says_which_extra_is_missing(bare: Path) -> None:
    done = run(bare / "mlx-host", "serve", "--port", "0")
    assert (done.returncode, len(done.stderr.splitlines())) == (78, 1)
    assert "pip install 'mlx-sidecar[host]'" in done.stderr


def test_what_needs_no_extra_works_in_a_bare_install(bare: Path, tmp_path: Path) -> None:
    assert run(bare / "mlx-sidecar", "version").stdout.split()[:2] == ["version", sidecar.__version__]
    status = run(bare / "mlx-sidecar", "status", "--state-dir", str(tmp_path / "state"))
    assert (status.returncode, status.stderr) == (1, "")
    status = run(bare / "mlx-host", "status", "--state-dir", str(tmp_path / "state"))
    assert (status.returncode, status.stderr) == (1, "")
    assert run(bare / "mlx-sidecar", "serve", "--help").returncode == 0
    imported = run(bare / "python", "-W", "error", "-c", "import host_api; print(host_api.SidecarHost.__name__)")
    assert (imported.stdout.strip(), imported.stderr) == ("SidecarHost", "")


@pytest.mark.parametrize(
    ("system", "machine", "words"),
    [
        ("darwin", "arm64", None),
        ("linux", "x86_64", None),
        ("darwin", "x86_64", "Apple Silicon"),
        ("win32", "AMD64", "Windows"),
    ],
)
def test_a_machine_that_cannot_run_it_is_told_so(system: str, machine: str, words: str | None) -> None:
    reason = extras.unsuitable(system, machine)
    assert (reason is None) if words is None else (words in str(reason))


def test_everything_the_core_imports_is_among_its_dependencies() -> None:
    allowed = {"httpx", "psutil", "host_api", *sys.stdlib_module_names}
    for path in [*(ROOT / "host_api").glob("*.py"), *(ROOT / "host_api" / "protocol").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name.partition(".")[0] in allowed, f"{path.name} imports {name}"
