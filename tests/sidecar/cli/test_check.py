"""``mlx-sidecar check``: the whole report of what a model gives in company, for people and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sidecar.cli import check, main
from tests.support.families import build


def run(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command as it is typed; return its exit status and what it wrote."""
    status = main.run(["check", *args])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_listed_model_that_works_in_every_way(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "starter").symlink_to(data_dir / "models" / "starter")
    status, out, err = run("starter", "--data-dir", str(tmp_path), "--json", capsys=capsys)
    assert status == 0, err
    document = json.loads(out)
    assert document["loads"] is True
    assert document["turned_off"] == {}
    assert document["can"]["see"] is True
    assert set(document["checks"]) == {
        "prompts processed together",
        "rows decoded together",
        "rows and a prompt in one pass",
        "a prompt in pieces",
        "a prompt after a kept prefix",
        "a picture in pieces",
    }
    assert all(found.startswith("same: ") for found in document["checks"].values())


def test_a_folder_with_what_it_does_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = build("gemma2")
    status, out, _ = run(str(folder), "--data-dir", str(tmp_path), capsys=capsys)
    assert status == check.TURNED_OFF
    assert f"{folder}: gemma2, chat, 4096 tokens of context" in out
    assert "  no   process several prompts together: prompts processed together failed" in out
    assert "  yes  process a prompt in pieces\n" in out
    assert "Turned off, and answers are right without it: group, batch." in out
    known = json.loads((tmp_path / "checked-models.json").read_text())
    assert [set(found["failed"]) for found in known.values()] == [{"group", "batch"}]  # the server's next load reads it


def test_what_is_found_is_looked_at_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = build("qwen3")
    assert run(str(folder), "--data-dir", str(tmp_path), capsys=capsys)[0] == 0
    file = tmp_path / "checked-models.json"
    document = json.loads(file.read_text())
    for found in document.values():
        found["failed"] = {"batch": "an older program said so"}
    file.write_text(json.dumps(document))
    status, out, _ = run(str(folder), "--data-dir", str(tmp_path), capsys=capsys)
    assert status == 0
    assert "Nothing differs." in out
    assert "an older program" not in file.read_text()


def test_an_embedding_model(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_dir / "models" / "all-MiniLM-L6-v2"
    if not folder.exists():
        pytest.skip("no embedding model is installed beside the starter model")
    status, out, err = run(str(folder), "--data-dir", str(tmp_path), capsys=capsys)
    assert status == 0, err
    assert "texts embedded together          same: " in out


def test_what_can_not_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run("nothing-like-this", "--data-dir", str(tmp_path), capsys=capsys)
    assert (status, out) == (1, "")
    assert "no model 'nothing-like-this'" in err
    shutil.copytree(build("qwen3"), tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    status, out, _ = run(str(tmp_path / "cut"), "--data-dir", str(tmp_path), "--json", capsys=capsys)
    assert status == 1
    document = json.loads(out)
    assert document["loads"] is False
    assert "is cut off" in document["error"]
