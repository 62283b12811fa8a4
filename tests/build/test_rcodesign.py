"""build/release.py with signatures that are real: made, stamped and read back by rcodesign, over the macOS wheels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.build.test_macos_plan import mlx
from tests.build.test_release import app, release, shipped, tools
from tests.support import apple, rcodesign

__all__ = ["app", "mlx", "tools"]  # fixtures

pytestmark = [
    pytest.mark.skipif(rcodesign.program() is None, reason=f"rcodesign is not installed: {rcodesign.HOW}"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which stamps the time, is not installed"),
]


@pytest.fixture
def stamps(tmp_path: Path) -> Iterator[rcodesign.Stamps]:
    with rcodesign.Stamps(tmp_path / "clock") as clock:
        yield clock


@pytest.fixture
def signer(tmp_path: Path, tools: dict[str, str], stamps: rcodesign.Stamps) -> dict[str, str]:
    """Return the environment of ``tools``, its codesign the real signer."""
    key = rcodesign.certificate(tmp_path, apple.TEAM)
    rcodesign.install(tmp_path / "bin", key, apple.TEAM, stamps.url)
    return tools


def signature(path: Path) -> dict[str, Any]:
    return rcodesign.signature_of(str(rcodesign.program()), str(path))


def test_every_step_with_real_signatures(app: Path, signer: dict[str, str], stamps: rcodesign.Stamps) -> None:
    plain = (app / "_internal" / "mlx" / "lib" / "libmlx.dylib").stat().st_size
    done = release(signer, "all", str(app))
    assert done.returncode == 0, done.stderr
    files = [p for p in app.rglob("*") if p.is_file() and not p.is_symlink() and p.suffix in (".so", ".dylib", "")]
    files = [p for p in files if p.read_bytes()[:4] == b"\xcf\xfa\xed\xfe"]
    assert len(files) == stamps.given >= 4
    for path in files:
        found = signature(path)
        (signer_,) = found["cms"]["signers"]
        assert signer_["signature_verifies"]
        assert signer_["time_stamp_token"]
        assert found["code_directory"]["team_name"] == apple.TEAM
        assert "RUNTIME" in found["code_directory"]["flags"]
        rights = "".join(found.get("entitlements_plist") or ())
        assert ("allow-jit" in rights) is (path.name == "mlx-sidecar"), "the program's alone"
    assert (app / "_internal" / "mlx" / "lib" / "libmlx.dylib").stat().st_size > plain
    assert shipped(app)["mlx-sidecar"]["sha256"] == apple.digest(app / "mlx-sidecar")
    library = app / "_internal" / "mlx" / "lib" / "libmlx.dylib"
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    library.write_bytes(data)
    again = release(signer, "verify", str(app))
    assert again.returncode == 1
    assert "libmlx.dylib is not validly signed: code digest mismatch" in again.stderr


@pytest.mark.parametrize(
    ("team", "stamped", "words"),
    [("OTHER54321", True, "signed by team OTHER54321"), (apple.TEAM, False, "has no secure timestamp")],
    ids=["another team", "no timestamp"],
)
def test_a_real_signature_of_the_wrong_kind_ends_it(
    app: Path, signer: dict[str, str], tmp_path: Path, stamps: rcodesign.Stamps, team: str, stamped: bool, words: str
) -> None:
    key = rcodesign.certificate(tmp_path, team)
    rcodesign.install(tmp_path / "bin", key, team, stamps.url if stamped else "none")
    done = release(signer, "sign", str(app))
    assert done.returncode == 1
    assert words in done.stderr
