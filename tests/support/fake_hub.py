"""A model hub over real sockets: huggingface_hub's API, a second host for large files, and faults on demand."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
_CHUNK = 1 << 18


@dataclass
class Fault:
    """What goes wrong with the next ``times`` answers for files. ``at``: after so many bytes of the body."""

    kind: str  # drop, stall, corrupt, status, grow, ignore_range, slow
    times: int = 1
    at: int = 0
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    path: str = ""  # a file's, or "api"; empty: any file


@dataclass
class Seen:
    """One request the hub or its second host got."""

    host: str  # hub or cdn
    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int = 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news here."""


class FakeHub:
    """One model, ``hub_id``, of ``files``; those in ``large`` are kept by LFS on the second host."""

    def __init__(
        self, files: dict[str, bytes | Path], *, hub_id: str = "acme/tiny", large: set[str] | None = None
    ) -> None:
        self.hub_id = hub_id
        self.files = files
        self.large = {p for p in files if p.endswith(".safetensors")} if large is None else large
        self.token: str | None = None  # needed to see the model, when set
        self.gated = False
        self.lies: dict[str, Any] = {}  # commit, sha256, blob, size: what is said in place of what is true
        self.rate = 0.0  # bytes a second of each connection; 0: as fast as it goes
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.release = threading.Event()  # ends stalls
        self._guard = threading.Lock()
        self._hashes = {p: self._hash(p) for p in files}
        self._hub = _Server(("127.0.0.1", 0), _handler(self, "hub"))
        self._cdn = _Server(("127.0.0.1", 0), _handler(self, "cdn"))
        self._threads = [
            threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            for s in (self._hub, self._cdn)
        ]

    def __enter__(self) -> FakeHub:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join(5)

    @property
    def url(self) -> str:
        """The hub's address."""
        return f"http://127.0.0.1:{self._hub.server_address[1]}"

    @property
    def cdn(self) -> str:
        """The second host's address."""
        return f"http://127.0.0.1:{self._cdn.server_address[1]}"

    def size(self, path: str) -> int:
        """Bytes of a file."""
        content = self.files[path]
        return content.stat().st_size if isinstance(content, Path) else len(content)

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.size(p) for p in self.files)

    def sent(self) -> int:
        """Bytes of files sent so far."""
        return sum(s.sent for s in self.seen)

    def fault(self, path: str) -> Fault | None:
        """The fault for the next answer about ``path``, used up."""
        with self._guard:
            for fault in self.faults:
                if fault.times > 0 and (fault.path == path or (not fault.path and path != "api")):
                    fault.times -= 1
                    return fault
        return None

    def _hash(self, path: str) -> str:
        large = path in self.large
        digest = hashlib.sha256() if large else hashlib.sha1(f"blob {self.size(path)}\0".encode())
        for block in self.blocks(path, 0):
            digest.update(block)
        return digest.hexdigest()

    def blocks(self, path: str, start: int) -> Iterator[bytes]:
        """A file's content from an offset."""
        content = self.files[path]
        if isinstance(content, Path):
            with content.open("rb") as data:
                data.seek(start)
                while block := data.read(_CHUNK):
                    yield block
        else:
            for at in range(start, len(content), _CHUNK):
                yield content[at : at + _CHUNK]

    def info(self) -> dict[str, Any]:
        """The document of /api/models."""
        siblings = []
        for path in self.files:
            size, digest = self.size(path), self._hashes[path]
            one: dict[str, Any] = {"rfilename": path, "size": size, "blobId": digest}
            if path in self.large:
                size, digest = self.lies.get("size", size), self.lies.get("sha256", digest)
                one |= {"blobId": "0" * 40, "lfs": {"size": size, "sha256": digest, "pointerSize": 134}}
            elif "blob" in self.lies:
                one["blobId"] = self.lies["blob"]
            siblings.append(one)
        gated = "manual" if self.gated else False
        return {
            "id": self.hub_id,
            "sha": self.lies.get("commit", COMMIT),
            "siblings": siblings,
            "gated": gated,
            "tags": [],
        }

    def etag(self, path: str) -> str:
        """A file's hash."""
        return self._hashes[path]

    def file_of(self, digest: str) -> str:
        """The file of a hash."""
        return next(p for p, h in self._hashes.items() if h == digest)


def _handler(hub: FakeHub, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            seen = Seen(host, self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
            hub.seen.append(seen)
            if host == "cdn":
                self._file(hub.file_of(path.rpartition("/")[2]), seen, body)
                return
            if path.startswith(f"/api/models/{hub.hub_id}"):
                if not self._allowed() or self._broken("api"):
                    return
                self._json(200, hub.info())
                return
            prefix = f"/{hub.hub_id}/resolve/{COMMIT}/"
            name = path.removeprefix(prefix)
            if not path.startswith(prefix) or name not in hub.files:
                code = "EntryNotFound" if hub.hub_id in path else "RepoNotFound"
                self._json(404, {"error": "Not found"}, {"X-Error-Code": code})
                return
            if not self._allowed():
                return
            if name in hub.large:
                head = {"X-Linked-Etag": f'"{hub.etag(name)}"', "X-Linked-Size": str(hub.size(name))}
                self._json(302, {}, {**head, "X-Repo-Commit": COMMIT, "Location": f"{hub.cdn}/{hub.etag(name)}"})
                return
            self._file(name, seen, body)

        def _allowed(self) -> bool:
            if hub.token is None or self.headers.get("Authorization") == f"Bearer {hub.token}":
                return True
            if hub.gated:
                self._json(401, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
            else:
                self._json(401, {"error": "Invalid username or password."})
            return False

        def _broken(self, path: str) -> bool:
            fault = hub.fault(path)
            if fault is None:
                return False
            if fault.kind == "status":
                self._json(fault.status, {"error": "trouble"}, fault.headers)
            elif fault.kind == "stall":
                hub.release.wait(60)
                self.close_connection = True
            return True

        def _file(self, name: str, seen: Seen, body: bool) -> None:
            fault = hub.fault(name) if body else None
            if fault is not None and fault.kind == "status":
                self._json(fault.status, {"error": "trouble"}, fault.headers)
                return
            kind = fault.kind if fault is not None else ""
            at = fault.at if fault is not None else 0
            size = hub.size(name)
            start = 0
            if seen.range and kind != "ignore_range":
                start = int(seen.range.removeprefix("bytes=").partition("-")[0])
            if start >= size and start:
                self._json(416, {}, {"Content-Range": f"bytes */{size}"})
                return
            extra = 1000 if kind == "grow" else 0
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hub.etag(name)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(size - start + extra))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size + extra - 1}/{size + extra}")
            self.end_headers()
            if body:
                with contextlib.suppress(OSError):
                    self._send(name, seen, start, kind, at, extra)

        def _send(self, name: str, seen: Seen, start: int, kind: str, at: int, extra: int) -> None:
            began = time.monotonic()
            for block in hub.blocks(name, start):
                piece = block
                if hub.rate:
                    hub.release.wait(max(0.0, began + seen.sent / hub.rate - time.monotonic()))
                if kind in ("drop", "stall") and seen.sent + len(piece) > at:
                    piece = piece[: at - seen.sent]
                if kind == "corrupt" and not seen.sent:
                    piece = bytes([piece[0] ^ 1]) + piece[1:]
                if kind == "slow":
                    hub.release.wait(0.02)
                self.wfile.write(piece)
                seen.sent += len(piece)
                if kind in ("drop", "stall") and seen.sent >= at:
                    if kind == "stall":
                        hub.release.wait(60)
                    self.close_connection = True
                    return
            self.wfile.write(b"x" * extra)

        def _json(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler
