"""Apple's codesign, spoken by rcodesign (the crate apple-codesign), which really signs: with a certificate made here.

``install`` puts it on a PATH in the place of the stand-in of ``apple.py``; ``Stamps`` is a time-stamp authority on
loopback (RFC 3161, by openssl), because a signature to ship with has a secure timestamp. What it shows of a signature
rcodesign reads out of the file. Apple's own verification is another matter: no Mac ran any of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

VERSION = "0.29.0"
KEPT = Path.home() / ".cache" / "mlx-sidecar-dev" / f"rcodesign-{VERSION}"
HOW = f"cargo install --locked --no-default-features apple-codesign --version {VERSION} --root {KEPT}"


def program() -> str | None:
    """Return where rcodesign is, or None."""
    return shutil.which("rcodesign") or shutil.which(str(KEPT / "bin" / "rcodesign"))


def certificate(folder: Path, team: str) -> Path:
    """Make a self-signed Developer ID certificate of ``team`` with its key, in one PEM file."""
    path = folder / f"{team}.pem"
    words = ["--algorithm", "ecdsa", "--profile", "developer-id-application", "--person-name", "Nobody"]
    words += ["--team-id", team, "--pem-unified-file", str(path)]
    command = [str(program()), "generate-self-signed-certificate", *words]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def install(folder: Path, key: Path, team: str, stamps: str) -> None:
    """Put a ``codesign`` into ``folder`` that signs with ``key`` and has ``stamps`` (a URL, or none) stamp the time."""
    words = " ".join(f'{name}="{value}"' for name, value in {"KEY": key, "TEAM": team, "STAMPS": stamps}.items())
    path = folder / "codesign"
    path.write_text(f'#!/bin/sh\nexec env {words} RCODESIGN="{program()}" "{sys.executable}" "{__file__}" "$@"\n')
    path.chmod(0o755)


def codesign(args: list[str]) -> int:
    """Do what ``build/signing.py`` asks of codesign; the exit status."""
    rcodesign, file = os.environ["RCODESIGN"], args[-1]
    if "--verify" in args:
        return subprocess.run([rcodesign, "verify", file]).returncode
    if "--display" in args:
        return show(rcodesign, file)
    command = [rcodesign, "sign", "--pem-file", os.environ["KEY"], "--team-name", os.environ["TEAM"]]
    command += ["--timestamp-url", os.environ["STAMPS"] if "--timestamp" in args else "none"]
    if "--options" in args:
        command += ["--code-signature-flags", args[args.index("--options") + 1]]
    if "--entitlements" in args:
        command += ["--entitlements-xml-file", args[args.index("--entitlements") + 1]]
    return subprocess.run([*command, file]).returncode


def show(rcodesign: str, file: str) -> int:
    """Print what a file's signature says, in the words of ``codesign --display --verbose=4``."""
    signature = signature_of(rcodesign, file)
    if not signature:
        sys.stderr.write(f"{file}: code object is not signed at all\n")
        return 1
    code, signers = signature["code_directory"], signature["cms"]["signers"]
    flags = "0x10000(runtime)" if "RUNTIME" in code["flags"] else "0x0(none)"
    lines = [f"Executable={file}", f"CodeDirectory v={code['version']} flags={flags}"]
    stamps = [s["time_stamp_token"] for s in signers if s.get("time_stamp_token")]
    if stamps and all(s["signature_verifies"] for token in stamps for s in token["signers"]):
        lines.append(f"Timestamp={stamps[0]['signers'][0]['signing_time']}")
    sys.stderr.write("\n".join([*lines, f"TeamIdentifier={code.get('team_name', 'not set')}"]) + "\n")
    return 0


def signature_of(rcodesign: str, file: str) -> dict[str, Any]:
    """Return what rcodesign reads out of a Mach-O file's signature; nothing where there is none."""
    command = [rcodesign, "print-signature-info", file]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    (found,) = yaml.safe_load(done.stdout)
    signature: dict[str, Any] = found["entity"]["mach_o"].get("signature") or {}
    return signature


AUTHORITY = """[ tsa ]
serial = {folder}/serial
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
signer_digest = sha256
accuracy = secs:1
ess_cert_id_chain = no
[ req ]
distinguished_name = name
[ name ]
[ stamps ]
extendedKeyUsage = critical,timeStamping
"""


class Stamps:
    """A time-stamp authority on a free port of loopback, for a ``with``; ``url`` is where it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.given = folder, 0
        folder.mkdir()
        (folder / "serial").write_text("01\n")
        (folder / "conf").write_text(AUTHORITY.format(folder=folder))
        words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Clock", "-extensions", "stamps"]
        self._openssl("req", *words, "-config", "conf", "-keyout", "key.pem", "-out", "cert.pem")

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True, timeout=60)

    def stamp(self, query: bytes) -> bytes:
        """Return the reply to a query, both in DER."""
        self.given += 1
        (self.folder / "query").write_bytes(query)
        words = ["-config", "conf", "-section", "tsa", "-queryfile", "query", "-inkey", "key.pem"]
        self._openssl("ts", "-reply", *words, "-signer", "cert.pem", "-out", "reply")
        return (self.folder / "reply").read_bytes()

    def __enter__(self) -> Self:
        desk = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                reply = desk.stamp(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


if __name__ == "__main__":
    sys.exit(codesign(sys.argv[1:]))
