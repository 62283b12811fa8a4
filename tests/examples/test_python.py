"""The Python examples do what they say, each as a program of its own that attaches to one sidecar."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_api import HostConfig, LaunchSpec, SidecarHost
from tests.support.documents import png, shape

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "python"
PROGRAMS = sorted(FOLDER.glob("*.py"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[Path]:
    """Return a home whose default state directory has a sidecar on a free port, held for as long as the tests run."""
    folder = tmp_path_factory.mktemp("home")
    spec = LaunchSpec(port=0, grace_time=1, extra_args=("--data-dir", str(data_dir)))
    with SidecarHost(HostConfig(state_dir=folder / "state" / "mlx-sidecar", launch=spec)) as host:
        yield folder
        host.stop(force=True)


def run(home: Path, name: str, *words: str) -> str:
    """Run an example and return what it printed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLX_")}
    env |= {"HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
    command = [sys.executable, "-W", "error", str(FOLDER / f"{name}.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_each_is_run_here_and_short() -> None:
    assert [p.stem for p in PROGRAMS] == ["chat", "picture", "search", "tags"]
    for path in PROGRAMS:
        assert len(path.read_text().splitlines()) < 30, path.name


@pytest.mark.skipif(sys.platform == "darwin", reason="the default state directory is under the real home there")
class TestExamples:
    """Each example, once."""

    def test_chat(self, home: Path) -> None:
        assert run(home, "chat", "What is the capital of France?") == "The capital of France is Paris.\n"

    def test_picture(self, home: Path, tmp_path: Path) -> None:
        (tmp_path / "shape.png").write_bytes(png(shape("circle", "red")))
        answer = run(home, "picture", str(tmp_path / "shape.png"), "What is in this picture?")
        assert "red circle" in answer

    def test_tags(self, home: Path, tmp_path: Path) -> None:
        texts = {"cat": "The cat sleeps on the warm roof.", "sea": "Waves break at the harbour wall."}
        for name, text in texts.items():
            (tmp_path / f"{name}.txt").write_text(text)
        lines = run(home, "tags", *(str(tmp_path / f"{name}.txt") for name in texts)).splitlines()
        assert [line.partition(":")[0] for line in lines] == ["cat.txt", "sea.txt"]

    def test_search(self, home: Path, tmp_path: Path) -> None:
        notes = tmp_path / "notes.txt"
        notes.write_text("Buy bread and milk.\nThe hotel is booked for Tuesday night.\nThe bicycle needs a new tyre.\n")
        best = run(home, "search", str(notes), "Where do I sleep on the trip?").splitlines()[0]
        assert best.endswith("The hotel is booked for Tuesday night.")
