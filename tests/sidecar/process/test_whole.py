"""A frozen folder that is not all there is told by name; one that was signed or copied is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar.process import whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder as the build leaves it: two files, a link, and the list of them."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libmlx.so").write_bytes(b"x" * 100)
    (tmp_path / "base.zip").write_bytes(b"y" * 10)
    (tmp_path / "libmlx.so").symlink_to("lib/libmlx.so")
    sizes = {"lib/libmlx.so": 100, "base.zip": 10, "libmlx.so": 100}
    (tmp_path / whole.LIST).write_text(json.dumps(sizes))
    return tmp_path


def test_whole_signed_and_copied_folders_have_no_fault(folder: Path) -> None:
    assert whole.faults(folder) == []
    (folder / "lib" / "libmlx.so").write_bytes(b"x" * 150)  # a signature is put at the end
    (folder / "libmlx.so").unlink()
    (folder / "libmlx.so").write_bytes(b"x" * 150)
    assert whole.faults(folder) == []
    (folder / whole.LIST).unlink()
    assert whole.faults(folder) == []


def test_what_is_missing_or_cut_short_is_named(folder: Path) -> None:
    (folder / "base.zip").write_bytes(b"y" * 9)
    assert whole.faults(folder) == ["base.zip"]
    (folder / "lib" / "libmlx.so").unlink()
    assert whole.faults(folder) == ["lib/libmlx.so", "base.zip", "libmlx.so"], "a link that leads nowhere too"
    (folder / whole.LIST).write_text("{")
    assert whole.faults(folder) == [whole.LIST]


def test_a_program_that_is_not_whole_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert whole.problem() is None, "from source there is nothing to look at"
    monkeypatch.setattr("sys.frozen", True, raising=False)
    monkeypatch.setattr("sys._MEIPASS", str(folder), raising=False)
    assert whole.problem() is None
    (folder / "base.zip").unlink()
    (folder / "lib" / "libmlx.so").unlink()
    problem = whole.problem()
    assert problem is not None
    assert "lib/libmlx.so and 2 more missing or cut short" in problem
    assert "install the app again" in problem
