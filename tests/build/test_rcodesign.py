"""The real macOS libraries signed for real, with a certificate made here: by rcodesign, which runs on Linux too.

`make test-signing` builds that program (once, minutes) and runs this; `make test` skips it. No timestamp and no notary:
both are Apple's services.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import macho
import pytest
import release
import signing
from signing import Identity, ReleaseError, Tools

from tests.build.test_macos_plan import mlx
from tests.build.test_release import app

PROGRAM = os.environ.get("RCODESIGN", "")
TEAM = "TEAM123456"
pytestmark = pytest.mark.skipif(not PROGRAM, reason="`make test-signing` builds rcodesign and sets RCODESIGN")

__all__ = ["app", "mlx"]  # the fixtures

# What release.py tells codesign, told to rcodesign; what it shows, in codesign's words.
CODESIGN = """#!/bin/sh
for file in "$@"; do :; done
case $1 in
--force)
    flags= entitlements=
    while [ $# -gt 1 ]; do
        case $1 in
        --options) flags=$2 ;;
        --entitlements) entitlements=$2 ;;
        esac
        shift
    done
    exec "$RCODESIGN" sign --p12-file "$P12" --p12-password secret --timestamp-url none \\
        ${flags:+--code-signature-flags "$flags"} ${entitlements:+--entitlements-xml-file "$entitlements"} "$file" ;;
--verify) exec "$RCODESIGN" verify "$file" ;;
--display)
    shown=$("$RCODESIGN" print-signature-info "$file") || exit 1
    echo "$shown" | sed -n 's/^ *team_name: */TeamIdentifier=/p' | head -1
    echo "$shown" | sed -n 's/^ *flags: *CodeSignatureFlags(\\(.*\\))/flags=\\1/p' | tr A-Z a-z | head -1
    echo "$shown" | grep -q 'time_stamp_token: *[^n]' && echo Timestamp=now
    exit 0 ;;
esac
exit 2
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Return tools whose codesign is rcodesign, with a certificate of our own."""
    certificate = tmp_path / "ours.p12"
    command = [PROGRAM, "generate-self-signed-certificate", "--algorithm", "rsa", "--team-id", TEAM]
    command += ["--profile", "developer-id-application", "--person-name", "Nobody"]
    command += ["--p12-file", str(certificate), "--p12-password", "secret"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    program = tmp_path / "bin" / "codesign"
    program.parent.mkdir()
    program.write_text(CODESIGN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("P12", str(certificate))
    return Tools(timeout=120)


def test_everything_is_signed_and_what_is_changed_afterwards_is_found(app: Path, tools: Tools) -> None:
    identity = Identity(f"Developer ID Application: Nobody ({TEAM})", TEAM)
    with pytest.raises(ReleaseError, match="no secure timestamp"):
        signing.sign(app, identity, tools)  # which ends at the first file: Apple's timestamps can't be had here
    found = macho.machos(app)
    assert len(found) >= 4
    for path in [*(p for p in found if p.name != "mlx-sidecar"), app / "mlx-sidecar"]:
        command = ["codesign", "--force", "--options", "runtime", str(path)]
        assert tools.run(*command).status == 0, path
        shown = tools.run("codesign", "--display", str(path)).text
        assert f"TeamIdentifier={TEAM}" in shown, shown
        assert "runtime" in shown, shown
        assert all(header.signed for header in macho.headers(path)), path
        assert tools.run("codesign", "--verify", str(path)).status == 0, path
    release.check(app, names=())  # signing has moved nothing that the checks look at

    victim = next(p for p in found if p.name == "libmlx.dylib")
    data = bytearray(victim.read_bytes())
    data[len(data) // 3] ^= 1
    victim.write_bytes(data)
    done = tools.run("codesign", "--verify", str(victim))
    assert done.status != 0 or "digest" in done.text, done.text
