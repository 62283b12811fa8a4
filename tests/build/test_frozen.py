"""The frozen program: whole, self-contained, one process, movable. Built by `make freeze` before these run."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from tests.support import programs
from tests.support.programs import PYTHON
from tests.support.servers import wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTED = {  # families that need what is left out on purpose (docs/contributing/freezing.md)
    "mlx_vlm.models.inkling",
    "mlx_vlm.models.multi_modality",
    "mlx_vlm.models.nemotron_voicechat",
    "mlx_vlm.speculative.drafters.inkling_mtp",
}


@pytest.fixture(scope="session")
def app() -> Path:
    """The onedir build."""
    folder = ROOT / "dist" / "mlx-sidecar"
    assert (folder / "mlx-sidecar").exists(), "run `make freeze` first (`make test` does)"
    return folder


@contextmanager
def frozen(
    program: Path, folder: Path, *args: str, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The program's server with an empty environment, its state in ``folder``."""
    state = folder / "state"
    command = [*prefix, str(program), "serve", "--port", "0", "--state-dir", str(state), *args]
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "home"
    home.mkdir(exist_ok=True)
    with (folder / "output").open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, start_new_session=True
        )
    record = state / "sidecar.pid"
    try:

        def up() -> bool:
            assert process.poll() is None, (folder / "output").read_text()
            try:
                found = json.loads(record.read_text().splitlines()[1])
                return httpx.get(f"http://127.0.0.1:{found['port']}/health").status_code == 200
            except (OSError, IndexError, ValueError, httpx.HTTPError):
                return False

        wait_for(up, 60)
        yield process, json.loads(record.read_text().splitlines()[1])
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # with a tracer in front, the program too
            process.wait(30)


def ask(record: dict[str, Any], **body: Any) -> Any:
    """A chat completion."""
    document = {"model": "starter", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    answer = httpx.post(
        f"http://127.0.0.1:{record['port']}/v1/chat/completions",
        json=document | {"temperature": 0} | body,
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]


def test_every_family_parser_and_processor_loads_as_from_source(app: Path) -> None:
    def walk(*command: str) -> dict[str, str]:
        done = subprocess.run(
            [*command, "selfcheck", "--json"], capture_output=True, text=True, timeout=280, check=True
        )
        found: dict[str, str] = json.loads(done.stdout)
        return found

    source = walk(sys.executable, "-m", "sidecar.entry")
    inside = walk(str(app / "mlx-sidecar"))
    assert set(inside) == set(source)
    different = {name for name in source if source[name] != inside[name]}
    assert different == DOCUMENTED
    assert sum(v == "ok" for v in inside.values()) > 1900


@pytest.mark.timeout(400)
def test_serves_with_nothing_of_the_build_machine(app: Path, tmp_path: Path, data_dir: Path, model_dir: Path) -> None:
    """A trace of every file opened: nothing of this machine's Python, of the sources or of the venv."""
    strace = shutil.which("strace")
    assert strace, "strace is needed: apt-get install strace"
    trace = tmp_path / "trace"
    prefix = (strace, "-f", "-qq", "-e", "trace=open,openat,execve", "-o", str(trace))
    with frozen(
        app / "mlx-sidecar", tmp_path, "--data-dir", str(data_dir), "--model-dir", str(model_dir), prefix=prefix
    ) as (process, record):
        assert ask(record)["content"] == "The capital of France is Paris."
        schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
        form = {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {**schema, "additionalProperties": False}},
        }
        assert json.loads(ask(record, response_format=form, max_tokens=40)["content"])["n"] <= 9
        tool = {
            "type": "function",
            "function": {"name": "look", "parameters": {**schema, "additionalProperties": False}},
        }
        called = ask(record, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=60)
        assert called["tool_calls"][0]["function"]["name"] == "look"
        data = io.BytesIO()
        Image.new("RGB", (64, 64), (200, 10, 10)).save(data, "JPEG")
        url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
        assert ask(record, model="tiny-vl", messages=[{"role": "user", "content": content}], max_tokens=4)["content"]
        os.kill(int(record["pid"]), signal.SIGTERM)
        process.wait(30)
    opened = re.findall(
        r'(?:open|openat|execve)\((?:AT_FDCWD, )?"([^"]+)"[^\n]*= \d', trace.read_text(errors="replace")
    )
    assert len(opened) > 100
    allowed = (str(app), str(tmp_path), str(data_dir), str(model_dir), "/proc", "/sys", "/dev", "/etc")
    system = re.compile(
        r"/(usr/)?lib(64|/x86_64-linux-gnu|/aarch64-linux-gnu)?/(lib|ld-|locale|ssl|gconv)[^/]*.*|/usr/(share|lib)/.*"
    )
    minilm = Path(os.path.realpath(model_dir / "minilm"))
    foreign = [
        p
        for p in opened
        if p.startswith("/")
        and not p.startswith((*allowed, str(minilm)))
        and not system.fullmatch(p)
        and Path(p).exists()
    ]
    assert not [
        p for p in foreign if "python" in p or str(ROOT / "sidecar") in p or ".venv" in p or "site-packages" in p
    ]


@pytest.mark.parametrize("how", ["spaces and letters", "links followed", "read-only", "renamed"])
def test_works_wherever_it_is_put(app: Path, tmp_path: Path, data_dir: Path, how: str) -> None:
    target = tmp_path / {"spaces and letters": "Meine Prögramme 程序", "links followed": "copy"}.get(how, "moved")
    if how == "links followed":
        subprocess.run(["cp", "-rL", str(app), str(target)], check=True)
        assert not any(p.is_symlink() for p in target.rglob("*"))
    else:
        shutil.copytree(app, target, symlinks=True)
    program = target / "mlx-sidecar"
    if how == "renamed":
        program = program.rename(target / "other name")
    if how == "read-only":
        for path in [target, *target.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
    try:
        with frozen(program, tmp_path / "run", "--data-dir", str(data_dir)) as (process, record):
            assert record["pid"] == process.pid
            assert ask(record)["content"] == "The capital of France is Paris."
    finally:
        if how == "read-only":
            for path in [target, *target.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | 0o200)
        shutil.rmtree(target)


@pytest.mark.parametrize("lost", ["mlx/lib/libmlx.so", "pydantic_core", "numpy.libs"])
def test_a_half_copied_folder_says_what_to_do(app: Path, tmp_path: Path, lost: str) -> None:
    target = tmp_path / "copy"
    shutil.copytree(app, target, symlinks=True, copy_function=os.link)
    part = target / "_internal" / lost
    if part.is_dir():
        shutil.rmtree(part)
    else:
        data = part.read_bytes()
        part.unlink()  # a link to the build's own
        part.write_bytes(data[: len(data) // 2])  # the disk was full
    command = [str(target / "mlx-sidecar"), "serve", "--port", "0", "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(command, env={"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78, done.stderr
    assert "missing or cut short" in done.stderr
    assert "install the app again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state" / "sidecar.pid").exists()
    shutil.rmtree(target)


def test_an_update_under_a_running_sidecar(app: Path, tmp_path: Path, data_dir: Path) -> None:
    """The folder is swapped while it answers, as updaters do; its app is started anew; both apps get their answers.

    What the old process had not imported yet is gone with its files: it must leave, not answer 500 for ever.
    """
    bundle, new, old, state = (tmp_path / name for name in ("app", "new", "old", "state"))
    for folder in (bundle, new):
        shutil.copytree(app, folder, symlinks=True, copy_function=os.link)
    shutil.copy2(new / "mlx-sidecar", new / "fresh")
    with (new / "fresh").open("ab") as file:
        file.write(b"another build")  # the archive in it is looked for from the end
    (new / "fresh").rename(new / "mlx-sidecar")
    command, quick = [str(bundle / "mlx-sidecar")], ("--grace-time", "2", "--backoff-base", "0.05")
    settings = {"MLX_SIDECAR_DATA_DIR": str(data_dir), "MLX_SIDECAR_OPEN": "1"}
    with programs.swept(state):
        ours = PYTHON.hold(state, *quick, sidecar=command, **settings)
        other = PYTHON.hold(state, "--supervise", *quick, sidecar=command, **settings)
        before = programs.record(state)
        assert before is not None
        assert ask({"port": before.port}, max_tokens=2)["content"]
        bundle.rename(old)
        new.rename(bundle)
        shutil.rmtree(old)
        ours.kill()
        ours = PYTHON.hold(state, *quick, sidecar=command, **settings)  # the relaunch
        wait_for(lambda: (now := programs.record(state)) is not None and now.build not in (None, before.build), 60)
        wait_for(lambda: not programs.lives(before), 30)
        assert other.event("restarted", 60)["connection"]["instance_id"] != before.instance_id
        after = programs.record(state)
        assert after is not None
        assert after.program == before.program == command[0]
        assert ask({"port": after.port})["content"] == "The capital of France is Paris."
        assert len(programs.sidecars(state)) == 1
        ours.let_go()
        other.let_go()
        wait_for(lambda: not programs.lives(after), 30)
    shutil.rmtree(bundle)


def streamed(record: dict[str, Any], *, kill_at: int = -1) -> list[Any]:
    """The events of a seeded chat without what differs between any two; the engine is killed at one of them."""
    url, out = f"http://127.0.0.1:{record['port']}", list[Any]()
    body = {"model": "starter", "messages": [{"role": "user", "content": "Tell me of the sea."}], "stream": True}
    body |= {"max_tokens": 40, "temperature": 0.8, "seed": 5}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                out.append({k: v for k, v in json.loads(line[6:]).items() if k not in ("id", "created")})
                if len(out) == kill_at:
                    os.kill(httpx.get(f"{url}/health", timeout=30).json()["engine"]["pid"], signal.SIGKILL)
    return out


def test_a_killed_engine_costs_no_answer(app: Path, tmp_path: Path, data_dir: Path) -> None:
    flags = ("--data-dir", str(data_dir), "--prefix-cache-mb", "0")
    with frozen(app / "mlx-sidecar", tmp_path, *flags) as (_, record):
        expected = streamed(record)
        assert len(expected) > 20
        first = httpx.get(f"http://127.0.0.1:{record['port']}/health", timeout=30).json()["engine"]
        assert streamed(record, kill_at=8) == expected
        engine = httpx.get(f"http://127.0.0.1:{record['port']}/health", timeout=30).json()["engine"]
        assert (first["deaths"], engine["deaths"]) == (0, 1)
        assert engine["pid"] != first["pid"]
        assert "SIGKILL" in engine["last_deaths"][0]["reason"]


def test_one_process_and_its_pid_is_in_the_record(app: Path, tmp_path: Path) -> None:
    with frozen(app / "mlx-sidecar", tmp_path) as (process, record):
        assert record["pid"] == process.pid
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children == []
        first_line = (tmp_path / "state" / "sidecar.pid").read_text().splitlines()[0]
        assert first_line == str(process.pid)


def test_the_matrix_products_are_openblas(app: Path, tmp_path: Path, data_dir: Path) -> None:
    """By the libraries mapped while the model runs: numpy's OpenBLAS, reached through the shim."""
    with frozen(app / "mlx-sidecar", tmp_path, "--data-dir", str(data_dir)) as (process, record):
        ask(record, max_tokens=1)
        maps = [child.memory_maps() for child in psutil.Process(process.pid).children()]
    assert any("libscipy_openblas64_" in mapped.path for child in maps for mapped in child)
    blas = next(app.glob("_internal/mlx_cpu.libs/libblas-*.so.*"))
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", str(blas)], capture_output=True, text=True, check=True
    ).stdout
    assert "scipy_cblas_sgemm64_" in symbols


def test_licences_sbom_and_manifest(app: Path) -> None:
    licences = (app / "THIRD_PARTY_LICENSES").read_text()
    bom = json.loads((app / "sbom.cdx.json").read_text())
    manifest = json.loads((app.parent / "manifest.json").read_text())
    names = {c["name"].lower() for c in bom["components"]}
    assert {"mlx", "mlx-vlm", "transformers", "fastapi", "uvicorn", "pillow", "numpy", "llguidance"} <= names
    for name in names:
        assert re.search(rf"^{re.escape(name)} \S+: ", licences, re.MULTILINE | re.IGNORECASE), name
    assert "OpenBLAS" in licences
    assert manifest["version"] == bom["metadata"]["component"]["version"]
    on_disk = {str(p.relative_to(app)) for p in app.rglob("*") if p.is_symlink() or p.is_file()}
    assert set(manifest["files"]) == on_disk
    eyes = manifest["files"]["_internal/sidecar/models/starter/vision/eyes.safetensors"]["size"]
    assert manifest["size"] - eyes <= 180_000_000  # without models
    assert not {"cv2", "pandas", "pyarrow", "scipy", "torch", "mlx_audio"} & {
        p.name for p in (app / "_internal").iterdir()
    }


def test_a_host_that_is_killed_leaves_no_frozen_child(app: Path, tmp_path: Path) -> None:
    """The record's process is the only one: once it is killed nothing of it is left."""
    with frozen(app / "mlx-sidecar", tmp_path) as (process, _):
        process.kill()
        process.wait(10)
        time.sleep(0.2)
        left = subprocess.run(["pgrep", "-f", str(tmp_path / "state")], capture_output=True, text=True, check=False)
        assert left.stdout == ""
