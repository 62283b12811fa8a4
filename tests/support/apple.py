"""Stand-ins for Apple's codesign, xcrun, ditto and spctl, which behave, or misbehave as told.

Run as a program under one of those names. ``APPLE_STATE`` is a folder for what has been signed and sent;
``APPLE_FAULTS`` a comma-separated list of what goes wrong. What real tools print was taken from Apple's manuals and
from public logs of builds; no real one was run.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TEAM = "TEAM123456"
FAULTS = {
    "sign-status": "codesign fails for one library and says so",
    "sign-silent": "codesign exits 0 and signs nothing",
    "sign-one-silent": "the same, for one library",
    "sign-hangs": "codesign waits for a keychain that nobody unlocks",
    "no-timestamp": "the timestamp server was away",
    "no-runtime": "the hardened runtime is not asked for",
    "other-team": "another certificate of the keychain was taken",
    "ditto-empty": "ditto exits 0 and writes nothing",
    "notary-invalid": "rejected, with exit status 0",
    "notary-progress": "no verdict within the time-out, with exit status 0",
    "notary-refused": "the credentials are refused",
    "notary-garbage": "a page of HTML in place of JSON",
    "notary-hangs": "nothing comes back",
    "log-missing": "accepted, but the log can't be had",
    "log-error": "accepted, but the log has an error",
    "log-invalid": "accepted, but the log says Invalid",
    "log-other": "the log of another submission",
    "staple-status": "no ticket is found",
    "staple-invalid": "stapled, but not valid",
    "gatekeeper": "Gatekeeper rejects what was stapled",
}


class Desk:
    """What the tools remember between calls."""

    def __init__(self) -> None:
        self.faults = set(filter(None, os.environ.get("APPLE_FAULTS", "").split(",")))
        self.path = Path(os.environ["APPLE_STATE"]) / "signed.json"
        self.signed: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def codesign(self, args: list[str]) -> int:
        """Sign, verify or show one file."""
        file = Path(args[-1])
        if "--verify" in args:
            return self.verify(file)
        if "--display" in args:
            return self.show(file)
        if "sign-hangs" in self.faults:
            time.sleep(60)
        if "sign-status" in self.faults and file.name.startswith("libmlx"):
            return say(f"{file}: errSecInternalComponent", 1)
        if "sign-silent" in self.faults or ("sign-one-silent" in self.faults and file.name.startswith("libmlx")):
            return 0
        with file.open("ab") as sink:
            sink.write(b"a signature")
        flags = "0x0(none)" if "no-runtime" in self.faults or "runtime" not in args else "0x10000(runtime)"
        team = "OTHER54321" if "other-team" in self.faults else args[args.index("--sign") + 1][-11:-1]
        stamped = "--timestamp" in args and "no-timestamp" not in self.faults
        self.signed[str(file)] = {"hash": digest(file), "flags": flags, "team": team, "stamped": stamped}
        self.path.write_text(json.dumps(self.signed))
        return 0

    def verify(self, file: Path) -> int:
        """As ``codesign --verify --strict``."""
        known = self.signed.get(str(file))
        if known is None:
            return say(f"{file}: code object is not signed at all", 1)
        if known["hash"] != digest(file):
            return say(f"{file}: invalid signature (code or signature have been modified)", 1)
        return say(f"{file}: valid on disk\n{file}: satisfies its Designated Requirement", 0)

    def show(self, file: Path) -> int:
        """As ``codesign --display --verbose=4``, on standard error."""
        known = self.signed.get(str(file))
        if known is None:
            return say(f"{file}: code object is not signed at all", 1)
        lines = [f"Executable={file}", f"CodeDirectory v=20500 size=1 flags={known['flags']} hashes=1+0"]
        lines += ["Timestamp=27 Nov 2026 at 10:00:00"] if known["stamped"] else ["Signed Time=27 Nov 2026 at 10:00:00"]
        return say("\n".join([*lines, f"TeamIdentifier={known['team']}"]), 0)

    def ditto(self, args: list[str]) -> int:
        """Make an archive."""
        if "ditto-empty" not in self.faults:
            Path(args[-1]).write_bytes(b"PK")
        return 0

    def xcrun(self, args: list[str]) -> int:
        """Lead to notarytool or stapler."""
        return self.stapler(args[1:]) if args[0] == "stapler" else self.notarytool(args[1:])

    def notarytool(self, args: list[str]) -> int:
        """Submit, or tell the log."""
        if args[0] == "log":
            return self.log(args[1])
        if "notary-hangs" in self.faults:
            time.sleep(60)
        if "notary-garbage" in self.faults:
            return out("<html>Service unavailable</html>", 0)
        if "notary-refused" in self.faults:
            return say("Error: HTTP status code: 401. Unable to authenticate.", 69)
        status = "Invalid" if "notary-invalid" in self.faults else "Accepted"
        status = "In Progress" if "notary-progress" in self.faults else status
        sys.stderr.write("Conducting pre-submission checks for mlx-sidecar.zip …\n")
        return out(json.dumps({"id": "one", "status": status, "message": "Processing complete"}), 0)

    def log(self, number: str) -> int:
        """As ``notarytool log``."""
        if "log-missing" in self.faults or "notary-progress" in self.faults:
            return say("Error: Submission log is not yet available or submissionId does not exist", 1)
        bad = self.faults & {"log-error", "notary-invalid"}
        issue = {"severity": "error", "path": "mlx-sidecar.zip/libmlx.dylib", "message": "The signature is invalid."}
        status = "Invalid" if self.faults & {"log-invalid", "notary-invalid"} else "Accepted"
        number = "another" if "log-other" in self.faults else number
        return out(json.dumps({"jobId": number, "status": status, "issues": [issue] if bad else None}), 0)

    def stapler(self, args: list[str]) -> int:
        """Staple or validate."""
        if args[0] == "staple" and "staple-status" in self.faults:
            return out("CloudKit query failed: Record not found. The staple and validate action failed! Error 65.", 65)
        if args[0] == "validate" and "staple-invalid" in self.faults:
            return out("does not have a ticket stapled to it.", 66)
        return out("The staple and validate action worked!", 0)

    def spctl(self, args: list[str]) -> int:
        """Ask Gatekeeper."""
        if "gatekeeper" in self.faults:
            return say(f"{args[-1]}: rejected\nsource=Unnotarized Developer ID", 3)
        return say(f"{args[-1]}: accepted\nsource=Notarized Developer ID", 0)


def digest(file: Path) -> str:
    """Return a file's SHA-256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def say(text: str, status: int) -> int:
    """Print on standard error."""
    sys.stderr.write(text + "\n")
    return status


def out(text: str, status: int) -> int:
    """Print on standard output."""
    sys.stdout.write(text + "\n")
    return status


def install(folder: Path) -> None:
    """Put the tools into ``folder``, for a PATH."""
    for name in ("codesign", "xcrun", "ditto", "spctl"):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" {name} "$@"\n')
        path.chmod(0o755)


if __name__ == "__main__":
    sys.exit(getattr(Desk(), sys.argv[1])(sys.argv[2:]))
