"""An update by its changed files: the new folder byte for byte, or nothing at all and a reason."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import compare
import delta
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signing import ReleaseError


def lay(folder: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """Make a folder of files, every second one a program, and links."""
    folder.mkdir()
    for number, (name, content) in enumerate(sorted(files.items())):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if number % 2 else 0o644)
    for name, target in (links or {}).items():
        (folder / name).symlink_to(target)
    return folder


OLD = {"mlx-sidecar": b"program 1", "_internal/lib.so": b"x" * 90_000, "_internal/gone.py": b"old"}
NEW = {"mlx-sidecar": b"program 2", "_internal/lib.so": b"x" * 90_000, "_internal/b/moved.so": b"x" * 90_000}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return an old and a new folder."""
    old = lay(tmp_path / "old", OLD, {"libmlx.dylib": "_internal/lib.so"})
    return old, lay(tmp_path / "new", NEW, {"libmlx.dylib": "_internal/b/moved.so"})


def test_the_new_folder_comes_out_and_only_new_content_is_carried(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pair
    made = delta.make(old, new, tmp_path / "d")
    assert made["parts"] == ["mlx-sidecar"], "what moved or stayed is not sent again"
    before = delta.listing(old)
    delta.apply(old, tmp_path / "d", tmp_path / "out")
    assert delta.listing(tmp_path / "out") == delta.listing(new)
    assert delta.listing(old) == before
    delta.make(old, new, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "d").read_bytes()


names = st.text("abc", min_size=1, max_size=2)
trees = st.dictionaries(st.builds("{}/{}".format, names, names), st.binary(max_size=20), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(before=trees, after=trees)
def test_any_two_folders(
    before: dict[str, bytes], after: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    work = tmp_path_factory.mktemp("trees")
    old, new = lay(work / "old", before), lay(work / "new", after)
    delta.make(old, new, work / "d")
    delta.apply(old, work / "d", work / "out")
    assert delta.listing(work / "out") == delta.listing(new)


def rewritten(path: Path, change: Callable[[dict[str, object], dict[str, bytes]], None]) -> None:
    """Write a delta anew after ``change`` has had its head and its parts."""
    with tarfile.open(path) as archive:
        content = {m.name: f.read() for m in archive if (f := archive.extractfile(m))}
    head = json.loads(content.pop("delta.json"))
    change(head, content)
    with tarfile.open(path, "w:xz") as archive:
        for name, data in {"delta.json": json.dumps(head).encode(), **content}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def tampered(head: dict[str, object], parts: dict[str, bytes]) -> None:
    parts.update(dict.fromkeys(parts, b"program 3"))


def outside(head: dict[str, object], parts: dict[str, bytes]) -> None:
    files = head["files"]
    assert isinstance(files, dict)
    files["../evil"] = files["mlx-sidecar"]


def leads_out(head: dict[str, object], parts: dict[str, bytes]) -> None:
    files = head["files"]
    assert isinstance(files, dict)
    files["_internal/way"] = {"link": "../../evil"}


def another_mode(head: dict[str, object], parts: dict[str, bytes]) -> None:
    files = head["files"]
    assert isinstance(files, dict)
    files["mlx-sidecar"]["mode"] = 0o600


def without_part(head: dict[str, object], parts: dict[str, bytes]) -> None:
    parts.clear()


def of_the_future(head: dict[str, object], parts: dict[str, bytes]) -> None:
    head["schema"] = 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (tampered, "was changed on its way"),
        (outside, "leads out of the folder"),
        (leads_out, "leads out of the folder"),
        (another_mode, "is not what it says"),
        (without_part, "neither in the old folder nor in the delta"),
        (of_the_future, "schema 2"),
    ],
)
def test_a_delta_that_lies_makes_nothing(
    pair: tuple[Path, Path],
    tmp_path: Path,
    change: Callable[[dict[str, object], dict[str, bytes]], None],
    words: str,
) -> None:
    delta.make(*pair, tmp_path / "d")
    rewritten(tmp_path / "d", change)
    there = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(ReleaseError, match=words):
        delta.apply(pair[0], tmp_path / "d", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == there


def test_another_version_a_cut_archive_and_a_folder_in_the_way(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pair
    delta.make(old, new, tmp_path / "d")
    with pytest.raises(ReleaseError, match="is for another version"):
        delta.apply(new, tmp_path / "d", tmp_path / "out")
    with pytest.raises(ReleaseError, match="is there already"):
        delta.apply(old, tmp_path / "d", new)
    whole = (tmp_path / "d").read_bytes()
    refused = 0
    for size in range(0, len(whole), 37):
        (tmp_path / "cut").write_bytes(whole[:size])
        out = tmp_path / f"out{size}"
        try:
            delta.apply(old, tmp_path / "cut", out)
        except ReleaseError:
            refused += 1
            assert not out.exists()
        else:
            assert delta.listing(out) == delta.listing(new), "only the end mark was missing"
    assert refused >= 5


def test_an_empty_folder_makes_no_delta(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, empty = lay(tmp_path / "old", OLD), tmp_path / "empty"
    empty.mkdir()
    for first, second in ((old, empty), (empty, old)):
        assert delta.main(["make", str(first), str(second), str(tmp_path / "d.tar.xz")]) == 1
        assert f"{empty} is empty: give the folder of a frozen program" in capsys.readouterr().err
        assert not (tmp_path / "d.tar.xz").exists()


def test_manifests_are_compared_by_file_or_folder_and_what_is_none_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lay(tmp_path / "one", OLD)
    assert compare.main([str(folder), str(folder)]) == 2
    assert "manifest.json" in capsys.readouterr().err
    head = {"version": "1", "python": "3.12", "platform": "x", "packages": {"mlx": "1"}, "files": {"a": "1", "b": "2"}}
    (folder / "manifest.json").write_text(json.dumps(head))
    (tmp_path / "other.json").write_text(json.dumps(head | {"packages": {"mlx": "2"}, "files": {"a": "3"}}))
    assert compare.main([str(folder), str(folder / "manifest.json")]) == 0
    assert compare.main([str(folder), str(tmp_path / "other.json")]) == 1
    told = capsys.readouterr().out
    assert told.splitlines() == ["the same", "package mlx: 1 / 2", "differs: a", "only in the first: b"]
    for none in ("[]", "{", '{"version": "1"}'):
        (tmp_path / "other.json").write_text(none)
        assert compare.main([str(folder), str(tmp_path / "other.json")]) == 2
