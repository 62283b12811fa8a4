"""What befalls hosts from outside, for tests and for ``make attack``: bundles, full disks, links, strangers."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.programs import ROOT


def bundle(folder: Path, build: str) -> list[str]:
    """A program of one file, as a bundle has it: its content, and so its build, is ``build``'s."""
    folder.mkdir(parents=True)
    path = folder / "mlx-sidecar"
    run = f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m tests.support.misbehaving "$@"'
    path.write_text(f"#!/bin/sh\n# build {build}\n{run}\n")
    path.chmod(0o755)
    return [str(path)]


def fill(disk: Path) -> Path:
    """Fill it to its last page; return the file to remove."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return ballast


def victim_in(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("precious\n")
    (folder / "launch.log").write_text("precious\n")
    (folder / "mlx_service_20200101.log").write_text("precious\n")
    return folder


def _link(name: str, to: str) -> Callable[[Path, Path], None]:
    def make(state: Path, victim: Path) -> None:
        (state / name).parent.mkdir(exist_ok=True)
        (state / name).symlink_to(victim / to)

    return make


def _fifo(name: str) -> Callable[[Path, Path], None]:
    def make(state: Path, victim: Path) -> None:
        (state / name).parent.mkdir(exist_ok=True)
        os.mkfifo(state / name)

    return make


def _hard(name: str) -> Callable[[Path, Path], None]:
    def make(state: Path, victim: Path) -> None:
        (state / name).parent.mkdir(exist_ok=True)
        os.link(victim / "file", state / name)

    return make


TRAPS = {
    "launch.log is a link": (_link("logs/launch.log", "file"), "state_dir"),
    "launch.log is a hard link": (_hard("logs/launch.log"), "state_dir"),
    "launch.log is a FIFO": (_fifo("logs/launch.log"), "state_dir"),
    "logs is a link": (_link("logs", "."), "state_dir"),
    "hosts.lock is a link": (_link("hosts.lock", "file"), "state_dir"),
    "launch.lock is a link": (_link("launch.lock", "file"), "state_dir"),
    "sidecar.lock is a link": (_link("sidecar.lock", "file"), "state_dir"),
    "sidecar.lock is a FIFO": (_fifo("sidecar.lock"), "state_dir"),
    "the record is a link": (_link("sidecar.pid", "file"), ""),  # it is replaced, never followed
    "the record is a FIFO": (_fifo("sidecar.pid"), ""),
    "restarts.json is a link": (_link("restarts.json", "file"), ""),
}


JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ANSWERS = {
    "deep": b"[" * 200_000,
    "deep health": b'{"instance_id": ' + b"[" * 100_000,
    "no object": b"[1, 2]",
    "a number beyond all": b'{"instance_id": 1e999, "status": ' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"instance_id": "\\ud800", "status": "ready"}',
    "not UTF-8": b'{"instance_id": "\xff"}',
    "nothing": b"",
}


@contextlib.contextmanager
def stranger(answers: list[bytes], port: int = 0) -> Iterator[int]:
    """A program that gives each client the next of ``answers``."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def serve() -> None:
            at = 0
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client, contextlib.suppress(OSError):
                        client.settimeout(5)
                        client.recv(4096)
                        client.sendall(answers[at % len(answers)])
                    at += 1

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def whole(body: bytes) -> bytes:
    return JSON + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def swap(app: Path, new: Path) -> None:
    """Put ``new`` in the place of ``app``, as updaters do: two renames of folders, then the old one goes."""
    old = app.with_name("old")
    app.rename(old)
    new.rename(app)
    for path in old.iterdir():
        path.unlink()
    old.rmdir()
