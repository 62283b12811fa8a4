"""From a frozen folder to something that may be shipped, one step after another; the first that fails ends it.

    python build/release.py all dist/mlx-sidecar        # check, sign, verify, manifest, notarise, staple, verify again
    python build/release.py check dist/mlx-sidecar      # one step; --dry-run prints what Apple's tools would be told

check      the processor, the lowest macOS and the library paths of every Mach-O; mlx.metallib; SBOM and licences
sign       every Mach-O inside out with CODESIGN_IDENTITY, each read back
verify     every Mach-O read back, and every file compared with the manifest where there is one
manifest   sizes and SHA-256 of what is shipped: after signing, since signing changes every Mach-O
notarise   sent to Apple with NOTARY_PROFILE; the verdict and its log are read
staple     the ticket on an app or disk image, validated, and Gatekeeper asked
notes      the text of CHANGELOG.md for a version

Nothing of it has run on a Mac: tests/build/test_release.py runs it over the real macOS wheels with tools of its own
that behave and misbehave as Apple's do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "build"), str(ROOT)]
import macho  # noqa: E402
import signing  # noqa: E402
from signing import Identity, ReleaseError, Tools  # noqa: E402

LOWEST = (14, 0)  # the macOS that is promised: README, tauri.macos.conf.json and tools/setup.sh say the same


def check(folder: Path, *, names: tuple[str, ...] | None = None) -> None:
    """Raise ReleaseError with every fault that would show on a user's Mac, or in a lawyer's letter."""
    if names is None:
        names = (str(Path.home()), socket.gethostname(), os.environ.get("RUNNER_NAME", ""))
    found = macho.problems(folder, lowest=LOWEST, names=names) + unlisted(folder)
    if found:
        raise ReleaseError("\n".join(["this folder may not be shipped:", *(f"  {line}" for line in found)]))
    _say(f"check: {len(macho.machos(folder))} Mach-O files, all for arm64 and macOS {LOWEST[0]}.{LOWEST[1]} or older")


def unlisted(folder: Path) -> list[str]:
    """Return what the folder ships and its SBOM or its licences don't name."""
    out = []
    try:
        components = json.loads((folder / "sbom.cdx.json").read_text("utf-8"))["components"]
        licences = (folder / "THIRD_PARTY_LICENSES").read_text("utf-8")
    except (OSError, ValueError, KeyError) as exc:
        return [f"sbom.cdx.json and THIRD_PARTY_LICENSES can't be read: {exc}"]
    named = {re.sub(r"[-_.]+", "-", c["name"]).lower() for c in components}
    shipped = {p.name.partition("-")[0].lower().replace("_", "-") for p in folder.rglob("*.dist-info")}
    if any(folder.rglob("mlx.metallib")):
        shipped.add("mlx-metal")
    for name in sorted(shipped):
        if name not in named:
            out.append(f"sbom.cdx.json doesn't name {name}, which is shipped")
        if not re.search(rf"^{name.replace('-', '[-_.]')} \d", licences, re.MULTILINE | re.IGNORECASE):
            out.append(f"THIRD_PARTY_LICENSES doesn't name {name}, which is shipped")
    return out


def manifest_path(folder: Path) -> Path:
    """Return where the manifest of a folder lies: beside it."""
    return folder.parent / "manifest.json"


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Return every file of a folder by its name: size and SHA-256, or where a link leads."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = {"link": path.readlink().as_posix()}
        elif path.is_file():
            with path.open("rb") as file:
                found[name] = {
                    "size": path.stat().st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
    return found


def write_manifest(folder: Path) -> None:
    """Write the files as they are now into the manifest, whose other fields stay."""
    path = manifest_path(folder)
    document: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {"name": "mlx-sidecar"}
    document["files"] = entries(folder)
    document["size"] = sum(entry.get("size", 0) for entry in document["files"].values())
    document["signed"] = all(part.signed for p in macho.machos(folder) for part in macho.headers(p))
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", "utf-8")
    _say(f"manifest: {len(document['files'])} files, {document['size'] / 1e6:.0f} MB")


def compare(folder: Path) -> None:
    """Raise ReleaseError unless the folder holds exactly what its manifest says."""
    said = json.loads(manifest_path(folder).read_text("utf-8"))["files"]
    now = entries(folder)
    lines = [f"  {name} is missing" for name in sorted(said.keys() - now.keys())]
    lines += [f"  {name} is not in the manifest" for name in sorted(now.keys() - said.keys())]
    lines += [f"  {name} was changed" for name in sorted(now.keys() & said.keys()) if now[name] != said[name]]
    if lines:
        raise ReleaseError("\n".join(["the folder is not what its manifest says:", *lines]))


def notes(version: str) -> str:
    """Return what CHANGELOG.md says of a version. Raises ReleaseError when it says nothing."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    match = re.search(rf"^## \[{re.escape(version)}\].*?\n(.*?)(?=^## \[|\Z)", text, re.MULTILINE | re.DOTALL)
    if match is None or not match[1].strip():
        raise ReleaseError(f"CHANGELOG.md has no text for {version}: rename [Unreleased] first (docs/contributing)")
    return match[1].strip() + "\n"


def refuse_machine() -> None:
    """Raise ReleaseError where a Mac build can't come out right: Intel, Rosetta."""
    from host_api.extras import unsuitable

    if sys.platform == "darwin" and (reason := unsuitable(sys.platform, platform.machine())):
        raise ReleaseError(f"releases are built on Apple Silicon: {reason}")


def _identity() -> Identity:
    name = os.environ.get("CODESIGN_IDENTITY", "")
    if not name:
        raise ReleaseError("set CODESIGN_IDENTITY to the name of your Developer ID certificate")
    return Identity.of(name)


def _profile() -> str:
    profile = os.environ.get("NOTARY_PROFILE", "")
    if not profile:
        raise ReleaseError("set NOTARY_PROFILE to a profile made by: xcrun notarytool store-credentials")
    return profile


def everything(folder: Path, target: Path, tools: Tools) -> None:
    """Do all steps in the one order that is right, for a folder or for the app that carries it."""
    identity, profile = _identity(), _profile()  # asked for before an hour's work, not after
    check(folder)
    signing.sign(folder, identity, tools)
    signing.verify(folder, identity, tools)
    if not tools.dry:
        write_manifest(folder)
        check(folder)
    number = signing.notarise(target, profile, tools)
    _say(f"notarise: {number} was accepted, and its log has no error")
    signing.staple(target, tools)
    signing.verify(folder, identity, tools)
    if not tools.dry:
        compare(folder)


def _verify(folder: Path, tools: Tools) -> None:
    count = signing.verify(folder, _identity(), tools)
    if manifest_path(folder).exists() and not tools.dry:
        compare(folder)
    _say(f"verify: {count} Mach-O files as they were signed")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run one step, or all; 1 and the reason on standard error when one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "step", choices=["all", "check", "sign", "verify", "manifest", "notarise", "staple", "notes"], metavar="STEP"
    )
    parser.add_argument("what", help="the frozen folder, the app or disk image, or for notes a version")
    parser.add_argument("--app", type=Path, help="with all: the signed app or disk image that carries the folder")
    parser.add_argument("--dry-run", action="store_true", help="print what Apple's tools would be told, change nothing")
    parser.add_argument("--timeout", type=float, default=300, help="longest run of one tool, seconds")
    args = parser.parse_args(argv)
    tools, folder = Tools(dry=args.dry_run, timeout=args.timeout), Path(args.what)
    steps: dict[str, Callable[[], object]] = {
        "all": lambda: everything(folder, args.app or folder, tools),
        "check": lambda: check(folder),
        "sign": lambda: _say(f"sign: {signing.sign(folder, _identity(), tools)} Mach-O files"),
        "verify": lambda: _verify(folder, tools),
        "manifest": lambda: write_manifest(folder),
        "notarise": lambda: _say(f"notarise: {signing.notarise(folder, _profile(), tools)} was accepted"),
        "staple": lambda: signing.staple(folder, tools),
        "notes": lambda: sys.stdout.write(notes(args.what)),
    }
    try:
        refuse_machine()
        steps[args.step]()
    except ReleaseError as exc:
        sys.stderr.write(f"release {args.step}: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
