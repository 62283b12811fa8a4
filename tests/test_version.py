"""One version everywhere, and a place that is not in the table is found."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import sidecar
from tools import version

ROOT = Path(__file__).resolve().parent.parent


def manifests() -> list[Path]:
    """Return every file of a kind that gives a package its version."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kinds = ("pyproject.toml", "Cargo.toml", "package.json", "tauri.conf.json")
    return [ROOT / name for name in names.splitlines() if Path(name).name in kinds]


def stated(path: Path) -> str | None:
    """Return the version a manifest gives its package, read by a parser of its format."""
    document: dict[str, Any]
    if path.suffix == ".json":
        document = json.loads(path.read_text())
    else:
        document = tomllib.loads(path.read_text())
        document = document.get("project") or document.get("package") or document["workspace"]["package"]
    found = document.get("version")
    return found if isinstance(found, str) else None  # `version.workspace = true`


def test_every_place_says_the_same() -> None:
    assert {number for found in version.numbers().values() for number in found} == {sidecar.__version__}
    assert version.current() == sidecar.__version__


@pytest.mark.parametrize("path", manifests(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_manifest_has_a_version_of_its_own(path: Path) -> None:
    found = stated(path)
    assert found is None or found == sidecar.__version__
    if found is not None:
        assert str(path.relative_to(ROOT)) in version.PLACES, "tools/version.py doesn't know this file"


def test_a_new_version_is_written_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in version.PLACES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(version, "ROOT", tmp_path)
    version.write("12.3.4-rc.1")
    assert {number for found in version.numbers().values() for number in found} == {"12.3.4-rc.1"}
    for name in version.PLACES:  # and nothing but the number has changed
        back = (tmp_path / name).read_text().replace("12.3.4-rc.1", sidecar.__version__)
        assert back == (ROOT / name).read_text()


@pytest.mark.parametrize("word", ["", "1", "1.2", "v1.2.3", "1.2.3 ", "1.2.x", "1.2.3-"])
def test_what_is_no_version_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="is no version"):
        version.write(word)


def test_the_changelog_has_a_place_for_what_comes() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    for heading in headings[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+[^\]]*\] - \d{4}-\d\d-\d\d", heading), heading
