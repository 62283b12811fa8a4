"""build/release.py over the real macOS wheels, with tools that behave and misbehave as Apple's do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sidecar.models.starter.source import Wheel, fetch
from tests.build.test_macos_plan import build, mlx
from tests.support import apple

ROOT = Path(__file__).resolve().parents[2]
NEWER = Wheel(
    "mlx-metal",
    "mlx_metal-0.32.4-py3-none-macosx_26_0_arm64.whl",
    "514df92d41a286895d2564b4b18f4da45096bd7a4a0c47e1042f345ad5a7f936",
    78_106_861,
)
IDENTITY = f"Developer ID Application: Nobody ({apple.TEAM})"

__all__ = ["mlx"]  # the fixture


@pytest.fixture
def app(mlx: Path, tmp_path: Path) -> Path:
    """Return a folder as frozen on a Mac, as far as MLX goes: the real libraries, a program, SBOM and licences."""
    folder = tmp_path / "dist" / "mlx-sidecar"
    build(mlx, folder / "_internal")
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.suffix in (".so", ".dylib"):
            data = path.read_bytes()
            path.unlink()  # a link to the fixture's file, which signing must not change
            path.write_bytes(data)
    program = folder / "mlx-sidecar"
    shutil.copy(next((folder / "_internal" / "mlx").glob("core*.so")), program)
    (folder / "_internal" / "mlx-0.32.4.dist-info").mkdir()
    names = ["mlx", "mlx-metal"]
    (folder / "sbom.cdx.json").write_text(json.dumps({"components": [{"name": n} for n in names]}))
    (folder / "THIRD_PARTY_LICENSES").write_text("\n".join(f"{n} 0.32.4: MIT\n" for n in names))
    (tmp_path / "dist" / "manifest.json").write_text(
        json.dumps({"name": "mlx-sidecar", "version": "0.1.0", "files": {}})
    )
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which Apple's tools are those of tests/support/apple.py."""
    (tmp_path / "bin").mkdir()
    apple.install(tmp_path / "bin")
    (tmp_path / "state").mkdir()
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "APPLE_STATE": str(tmp_path / "state"), "HOME": "/nobody/at/home"}
    return env | {"CODESIGN_IDENTITY": IDENTITY, "NOTARY_PROFILE": "ours"}


def release(env: dict[str, str], *words: str, faults: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program as a person or the workflow does."""
    command = [sys.executable, str(ROOT / "build" / "release.py"), *words]
    return subprocess.run(
        command, env={**env, "APPLE_FAULTS": faults}, capture_output=True, text=True, timeout=200, cwd=ROOT
    )


def shipped(app: Path) -> dict[str, Any]:
    """Return the manifest's files."""
    found: dict[str, Any] = json.loads((app.parent / "manifest.json").read_text())["files"]
    return found


def test_all_steps_in_their_order(app: Path, tools: dict[str, str]) -> None:
    done = release(tools, "all", str(app))
    assert done.returncode == 0, done.stderr
    manifest = shipped(app)
    program = manifest["mlx-sidecar"]
    assert program["sha256"] == apple.digest(app / "mlx-sidecar"), "the hash is of what is shipped, signature and all"
    signed = json.loads((Path(tools["APPLE_STATE"]) / "signed.json").read_text())
    real = {str(p) for p in app.rglob("*") if p.suffix in (".so", ".dylib") and not p.is_symlink()}
    assert set(signed) == real | {str(app / "mlx-sidecar")}
    assert list(signed)[-1] == str(app / "mlx-sidecar"), "the program is signed last"
    again = release(tools, "verify", str(app))
    assert again.returncode == 0, again.stderr


SIGNING = {
    "sign-status": "errSecInternalComponent",
    "sign-silent": "not signed at all",
    "sign-one-silent": "not signed at all",
    "sign-hangs": "took over 3 s",
    "no-timestamp": "no secure timestamp",
    "no-runtime": "without the hardened runtime",
    "other-team": "signed by team OTHER54321",
}
NOTARY = {
    "ditto-empty": "ditto made no archive",
    "notary-invalid": "The signature is invalid.",
    "notary-progress": "its log can't be had",
    "notary-refused": "Unable to authenticate",
    "notary-garbage": "took no submission",
    "log-missing": "its log can't be had",
    "log-error": "The signature is invalid.",
    "log-invalid": "log: Invalid",
    "log-other": "the log is another's",
}
STAPLER = {
    "staple-status": "Record not found",
    "staple-invalid": "does not have a ticket",
    "gatekeeper": "Gatekeeper would not open",
}


def test_every_fault_of_the_tools_is_tried() -> None:
    assert {*SIGNING, *NOTARY, *STAPLER, "notary-hangs"} == set(apple.FAULTS)


@pytest.mark.parametrize("fault", SIGNING)
def test_a_signature_that_is_not_there_ends_it(app: Path, tools: dict[str, str], fault: str) -> None:
    done = release(tools, "sign", str(app), "--timeout", "3", faults=fault)
    assert done.returncode == 1, done.stdout
    assert SIGNING[fault] in done.stderr
    assert done.stderr.startswith("release sign: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("fault", NOTARY)
def test_a_verdict_is_believed_only_with_its_log(app: Path, tools: dict[str, str], fault: str) -> None:
    done = release(tools, "notarise", str(app), faults=fault)
    assert done.returncode == 1, done.stdout
    assert NOTARY[fault] in done.stderr
    assert "Traceback" not in done.stderr


def test_a_notary_that_never_answers_is_ended(
    app: Path, tools: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import signing

    for name, value in {**tools, "APPLE_FAULTS": "notary-hangs"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(signing.ReleaseError, match=r"took over .* s and was ended"):
        signing.notarise(app, "ours", signing.Tools(), wait=-118)


@pytest.mark.parametrize("fault", STAPLER)
def test_a_ticket_is_validated_and_gatekeeper_asked(tmp_path: Path, tools: dict[str, str], fault: str) -> None:
    bundle = tmp_path / "Our.app"
    bundle.mkdir()
    done = release(tools, "staple", str(bundle), faults=fault)
    assert (done.returncode, STAPLER[fault] in done.stderr) == (1, True), done.stderr
    assert release(tools, "staple", str(bundle)).returncode == 0


def test_a_file_changed_after_signing_is_found(app: Path, tools: dict[str, str]) -> None:
    assert release(tools, "all", str(app)).returncode == 0
    library = app / "_internal" / "mlx" / "lib" / "libmlx.dylib"
    good = library.read_bytes()
    library.write_bytes(good + b"x")
    done = release(tools, "verify", str(app))
    assert (done.returncode, "modified" in done.stderr) == (1, True)
    library.write_bytes(good)
    (app / "sbom.cdx.json").write_text('{"components": []}')
    (app / "new").write_text("x")
    (app / "THIRD_PARTY_LICENSES").unlink()
    done = release(tools, "verify", str(app))
    assert done.returncode == 1
    for line in ("THIRD_PARTY_LICENSES is missing", "new is not in the manifest", "sbom.cdx.json was changed"):
        assert line in done.stderr


def test_a_wheel_of_a_newer_macos_is_found(app: Path, tools: dict[str, str]) -> None:
    kept = Path.home() / ".cache" / "mlx-sidecar-dev" / "wheels"
    target = app / "_internal" / "mlx" / "lib" / "libmlx.dylib"
    with zipfile.ZipFile(fetch(kept, index_url=None, progress=lambda *_: None, wheel=NEWER)) as archive:
        target.write_bytes(archive.read("mlx/lib/libmlx.dylib"))
    done = release(tools, "all", str(app))
    assert done.returncode == 1
    assert "libmlx.dylib: needs macOS 26.2; 14.0 is promised" in done.stderr
    assert not (Path(tools["APPLE_STATE"]) / "signed.json").exists(), "nothing was signed"


def thin(data: bytes, cpu: int) -> bytes:
    """Return a Mach-O with another processor in its header."""
    return data[:4] + cpu.to_bytes(4, "little") + data[8:]


def fat(data: bytes) -> bytes:
    """Return a universal file of the same code twice."""
    arches = b""
    at = 0x4000
    for cpu in (0x0100000C, 0x01000007):
        arches += b"".join(n.to_bytes(4, "big") for n in (cpu, 0, at, len(data), 14))
        at += (len(data) + 0x3FFF) & ~0x3FFF
    head = b"\xca\xfe\xba\xbe" + (2).to_bytes(4, "big") + arches
    body = data.ljust((len(data) + 0x3FFF) & ~0x3FFF, b"\0")
    return head.ljust(0x4000, b"\0") + body + thin(data, 0x01000007)


def test_what_would_not_run_on_a_users_mac_is_found(app: Path, tools: dict[str, str]) -> None:
    inside = app / "_internal"
    extension = next((inside / "mlx").glob("core*.so"))
    data = extension.read_bytes()
    (inside / "intel.so").write_bytes(thin(data, 0x01000007))
    (inside / "universal.so").write_bytes(fat(data))
    (inside / "broken.so").write_bytes(data[:100])
    home = data.replace(b"@rpath/libmlx.dylib", b"/opt/b/libmlx.dylib")
    (inside / "homely.so").write_bytes(home)
    (inside / "note.txt").write_text(f"built in {tools['HOME']}/x")
    (inside / "lost").symlink_to("nowhere")
    (inside / "out").symlink_to("/usr")
    (inside / "mlx.metallib").unlink()
    done = release(tools, "check", str(app))
    assert done.returncode == 1
    for line in (
        "intel.so: is for x86_64, not for arm64",
        "universal.so: holds 2 architectures; only arm64 is built: no universal programs",
        "broken.so: ",
        "homely.so: looks for /opt/b/libmlx.dylib, which is on the build machine alone",
        "note.txt: contains '/nobody/at/home', of the build machine",
        "lost: leads to nowhere, which isn't there",
        "out: leads out of the folder, to /usr",
        "_internal/libmlx.dylib: mlx.metallib is not beside it",
    ):
        assert line in done.stderr, done.stderr


def test_what_is_shipped_is_in_the_sbom_and_the_licences(app: Path, tools: dict[str, str]) -> None:
    (app / "_internal" / "numpy-2.4.0.dist-info").mkdir()
    (app / "sbom.cdx.json").write_text(json.dumps({"components": [{"name": "mlx"}]}))
    done = release(tools, "check", str(app))
    for name in ("mlx-metal", "numpy"):
        assert f"sbom.cdx.json doesn't name {name}" in done.stderr
    assert "THIRD_PARTY_LICENSES doesn't name numpy" in done.stderr


def test_a_dry_run_changes_nothing_and_prints_every_command(app: Path, tools: dict[str, str]) -> None:
    before = {p: apple.digest(p) for p in app.rglob("*") if p.is_file()}
    done = release(tools, "all", str(app), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert {p: apple.digest(p) for p in app.rglob("*") if p.is_file()} == before
    assert len(re.findall(r"^codesign --force --timestamp --options runtime", done.stdout, re.MULTILINE)) == 4
    for words in ("--entitlements", "notarytool submit", "notarytool log", "ditto -c -k --keepParent"):
        assert words in done.stdout


@pytest.mark.parametrize("name", ["", "Apple Development: Me (TEAM123456)", "Developer ID Application: Me", "-"])
def test_an_identity_that_users_macs_would_refuse_is_refused(app: Path, tools: dict[str, str], name: str) -> None:
    done = release({**tools, "CODESIGN_IDENTITY": name}, "all", str(app))
    assert (done.returncode, "CODESIGN_IDENTITY" in done.stderr) == (1, True)


def test_one_macos_is_promised_everywhere() -> None:
    import release as program

    lowest = ".".join(map(str, program.LOWEST))
    assert f"MACOSX_DEPLOYMENT_TARGET={lowest}" in (ROOT / "tools" / "setup.sh").read_text()
    for config in ROOT.glob("*/**/tauri.macos.conf.json"):
        if "node_modules" not in config.parts:
            assert json.loads(config.read_text())["bundle"]["macOS"]["minimumSystemVersion"] == lowest, config
    assert f"{program.LOWEST[0]} or later" in (ROOT / "README.md").read_text()


def test_the_notes_of_a_release_are_the_changelogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import release as program
    import signing

    text = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2027-01-31\n\n### Fixed\n\n- A thing.\n\n"
    text += "## [1.2.2] - 2027-01-01\n\nold\n"
    (tmp_path / "CHANGELOG.md").write_text(text)
    monkeypatch.setattr(program, "ROOT", tmp_path)
    assert program.notes("1.2.3") == "### Fixed\n\n- A thing.\n"
    for missing in ("1.2", "9.9.9", "Unreleased"):
        with pytest.raises(signing.ReleaseError, match="has no text"):
            program.notes(missing)
