"""The crates and the npm package can be published and used beside others."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.programs import ROOT

SNIPPETS = ROOT / "src-tauri-snippets"
LIBRARIES = ("mlx-sidecar-host", "tauri-plugin-mlx-sidecar")


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_asks_for_no_exact_version_and_says_what_it_is(name: str) -> None:
    document = tomllib.loads((SNIPPETS / name / "Cargo.toml").read_text())
    tables = [document.get("dependencies", {}), document.get("build-dependencies", {})]
    tables += [target.get("dependencies", {}) for target in document.get("target", {}).values()]
    for table in tables:
        for crate, given in table.items():
            version = given if isinstance(given, str) else given.get("version", "")
            assert version[:1].isdigit(), (
                f"{crate} = {version!r}: an app whose other crates need a newer one can't resolve"
            )
    package = document["package"]
    assert package["description"]
    assert package["readme"] == "README.md"
    assert package["metadata"]["docs"]["rs"]["targets"]
    assert (SNIPPETS / name / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_what_the_host_crate_packs(tmp_path: Path) -> None:
    words = ["cargo", "package", "--list", "--allow-dirty", "-p", "mlx-sidecar-host"]
    env = {**os.environ, "CARGO_TARGET_DIR": str(tmp_path)}
    done = subprocess.run(words, cwd=SNIPPETS, env=env, check=True, capture_output=True, text=True)
    packed = set(done.stdout.split())
    vectors = {f"tests/vectors/{n}.json" for n in ("backoff", "decide", "records", "traces")}
    assert {"README.md", "LICENSE", "src/lib.rs", "tests/vectors.rs"} | vectors <= packed
    assert not [n for n in packed if n.startswith("src/bin")], "the conformance program is not installed"


def test_the_npm_package_carries_types_and_no_dependency() -> None:
    folder = SNIPPETS / "tauri-plugin-mlx-sidecar" / "guest-js"
    document = json.loads((folder / "package.json").read_text())
    version = tomllib.loads((SNIPPETS / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert document["version"] == version
    assert document["types"].endswith(".d.ts")
    assert "dependencies" not in document
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_an_app_asks_for_nothing_that_only_the_sidecar_needs() -> None:
    """JIT and unsigned memory are the frozen program's, which is signed with entitlements of its own."""
    files = [*SNIPPETS.glob("src-tauri/*.json"), *ROOT.glob("examples/*/src-tauri/tauri*.json")]
    assert files
    for path in files:
        bundle = json.loads(path.read_text()).get("bundle", {})
        assert "entitlements" not in bundle.get("macOS", {}), path
    assert "NSAllowsLocalNetworking" in (SNIPPETS / "src-tauri" / "Info.plist").read_text()
