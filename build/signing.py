"""Signing, notarising and stapling, with every result read back.

Apple's tools report failure in several ways, and exit status is the least reliable of them: codesign has left files
unsigned with status 0 in pipelines that dropped it, and notarytool has exited 0 for a rejected submission. So each step
here asks a second question, about the *result*, and only its answer counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import macho

ENTITLEMENTS = Path(__file__).resolve().parent / "macos" / "entitlements.plist"


class ReleaseError(Exception):
    """A step failed; the message names the file and the reason. Nothing after it was done."""


@dataclass(frozen=True)
class Done:
    """What a tool said: exit status, and standard output and error together."""

    status: int
    text: str


@dataclass
class Tools:
    """Runs Apple's tools. With ``dry`` it only records and prints them; ``timeout`` is in seconds, of one call."""

    dry: bool = False
    timeout: float = 300
    calls: list[list[str]] = field(default_factory=list)

    def run(self, *command: str, timeout: float | None = None) -> Done:
        """Run a tool; a bad status is the caller's to judge. Raises ReleaseError if it is missing or takes too long."""
        self.calls.append(list(command))
        if self.dry:
            sys.stdout.write(" ".join(command) + "\n")
            return Done(0, "")
        limit = self.timeout if timeout is None else timeout
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, stdin=subprocess.DEVNULL)
        except FileNotFoundError:
            raise ReleaseError(
                f"{command[0]} is not on this machine; it comes with Xcode's command line tools"
            ) from None
        except subprocess.TimeoutExpired:
            raise ReleaseError(f"{' '.join(command[:3])} … took over {limit:g} s and was ended") from None
        return Done(done.returncode, f"{done.stdout}{done.stderr}")


@dataclass(frozen=True)
class Identity:
    """Who signs: the certificate's name, and the team it must turn out to be."""

    name: str
    team: str

    @classmethod
    def of(cls, name: str) -> Identity:
        """Read the team out of ``Developer ID Application: … (TEAMID)``. Raises ReleaseError for another form."""
        inside = name.rpartition("(")[2].removesuffix(")")
        if not name.startswith("Developer ID Application: ") or len(inside) != 10 or not inside.isalnum():
            raise ReleaseError(
                f"{name!r} is no identity to ship with: give CODESIGN_IDENTITY as "
                "'Developer ID Application: NAME (TEAMID)', from `security find-identity -v -p codesigning`"
            )
        return cls(name, inside)


def sign(folder: Path, identity: Identity, tools: Tools, *, program: str = "mlx-sidecar") -> int:
    """Sign every Mach-O of ``folder`` inside out, reading each back at once; return how many. Raises ReleaseError."""
    found = macho.machos(folder)
    main = folder / program
    if main not in found:
        raise ReleaseError(f"{main} is missing, or no Mach-O file: nothing was signed")
    for path in [*(p for p in found if p != main), main]:  # the program last: its signature covers what it needs
        command = ["codesign", "--force", "--timestamp", "--options", "runtime", "--sign", identity.name]
        command += ["--entitlements", str(ENTITLEMENTS)] if path == main else []
        done = tools.run(*command, str(path))
        if done.status:
            raise ReleaseError(f"codesign could not sign {path.relative_to(folder)}: {done.text.strip()}")
        read_back(path, identity, tools)
    return len(found)


def read_back(path: Path, identity: Identity, tools: Tools) -> None:
    """Raise ReleaseError unless a file is signed by our team, unchanged since, hardened, and has a secure timestamp."""
    checked = tools.run("codesign", "--verify", "--strict", "--verbose=2", str(path))
    if checked.status:
        raise ReleaseError(f"{path.name} is not validly signed: {checked.text.strip()}")
    if tools.dry:
        tools.run("codesign", "--display", "--verbose=4", str(path))
        return
    shown = tools.run("codesign", "--display", "--verbose=4", str(path)).text
    lines = dict(line.partition("=")[::2] for line in shown.splitlines() if "=" in line)
    flags = next((word for word in shown.split() if word.startswith("flags=")), "")
    if lines.get("TeamIdentifier") != identity.team:
        raise ReleaseError(f"{path.name} is signed by team {lines.get('TeamIdentifier', 'none')}, not {identity.team}")
    if "runtime" not in flags:
        raise ReleaseError(f"{path.name} is signed without the hardened runtime ({flags or 'no flags'})")
    if "Timestamp" not in lines:
        raise ReleaseError(f"{path.name} has no secure timestamp: its signature ends with the certificate")


def verify(folder: Path, identity: Identity, tools: Tools) -> int:
    """Read back every Mach-O of a folder; return how many. Raises ReleaseError."""
    found = macho.machos(folder)
    for path in found:
        read_back(path, identity, tools)
    return len(found)


def notarise(target: Path, profile: str, tools: Tools, *, wait: int = 3600) -> str:
    """Send ``target`` to Apple, read the verdict *and its log*; return the submission's id. Raises ReleaseError.

    ``wait`` is the longest to wait for a verdict, in seconds. ``profile`` is a keychain profile of notarytool.
    """
    with tempfile.TemporaryDirectory(prefix="notarise-") as folder:
        archive = Path(folder) / f"{target.name}.zip"
        zipped = tools.run("ditto", "-c", "-k", "--keepParent", str(target), str(archive))
        if zipped.status or not (tools.dry or archive.is_file()):
            raise ReleaseError(f"ditto made no archive of {target}: {zipped.text.strip()}")
        notary = ["xcrun", "notarytool"]
        common = ["--keychain-profile", profile, "--output-format", "json"]
        sent = tools.run(
            *notary, "submit", str(archive), *common, "--wait", "--timeout", f"{wait}s", timeout=wait + 120
        )
        if tools.dry:
            tools.run(*notary, "log", "ID", "--keychain-profile", profile)
            return "ID"
        answer = _json(sent.text)
        number = str(answer.get("id") or "")
        if not number:
            raise ReleaseError(f"notarytool took no submission (status {sent.status}): {sent.text.strip()}")
        told = tools.run(*notary, "log", number, "--keychain-profile", profile)
        _judge(answer, _json(told.text), told, number)
        return number


def _judge(answer: dict[str, Any], log: dict[str, Any], told: Done, number: str) -> None:
    """Raise ReleaseError unless both the answer and the log of a submission say that it was accepted without errors."""
    status, logged = answer.get("status"), log.get("status")
    issues = [i for i in log.get("issues") or [] if i.get("severity") == "error"]
    if not log:
        raise ReleaseError(
            f"submission {number} ({status}): its log can't be had, so nothing is known: {told.text.strip()}"
        )
    if status != "Accepted" or logged != "Accepted" or issues:
        lines = [f"  {i.get('path')}: {i.get('message')}" for i in log.get("issues") or []]
        summary = log.get("statusSummary") or "no summary"
        raise ReleaseError("\n".join([f"submission {number}: {status}, log: {logged} ({summary})", *lines]))
    if log.get("jobId") not in (None, number):
        raise ReleaseError(f"submission {number}: the log is another's, {log['jobId']}")


def _json(text: str) -> dict[str, Any]:
    """Return the JSON object in a tool's output, which may have lines of progress around it; empty where is none."""
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1]) if start >= 0 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def staple(target: Path, tools: Tools) -> bool:
    """Staple the ticket to an app, disk image or package, and validate it; False for a folder, which takes none.

    Raises ReleaseError.
    """
    if target.suffix not in (".app", ".dmg", ".pkg"):
        sys.stdout.write(
            f"{target.name}: a plain folder can't be stapled; staple the app or disk image that carries it\n"
        )
        return False
    for verb in ("staple", "validate"):
        done = tools.run("xcrun", "stapler", verb, str(target))
        if done.status:
            raise ReleaseError(f"stapler {verb} of {target.name} failed: {done.text.strip()}")
    kind = (
        ["--type", "open", "--context", "context:primary-signature"] if target.suffix == ".dmg" else ["--type", "exec"]
    )
    asked = tools.run("spctl", "--assess", "--verbose=4", *kind, str(target))
    if not tools.dry and (asked.status or "source=Notarized Developer ID" not in asked.text):
        raise ReleaseError(f"Gatekeeper would not open {target.name}: {asked.text.strip()}")
    return True
