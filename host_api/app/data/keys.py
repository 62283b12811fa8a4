"""Providers' API keys: in the system's keyring when there is a real one, else in a 0600 file.

A key belongs to the origin (scheme, host, port) that it was given for, and is stored with it: asked for another one,
there is none. So whatever changes a provider's address, its key doesn't go there.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

log = logging.getLogger("host.keys")
_SERVICE = "mlx-sidecar-host"
PATIENCE = 10.0  # seconds a keyring may take: it may ask its user for a password


class KeysUnreadable(Exception):
    """Stored keys can't be read now; nothing was changed. The message says what to do."""


def origin_of(url: str) -> str:
    """Return ``scheme://host:port`` of an address, the port always there."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme.lower()}://{(parts.hostname or '').lower()}:{port}"


@dataclass(frozen=True)
class _Entry:
    key: str = field(repr=False)
    origin: str | None  # None: of a release that didn't know origins

    def text(self) -> str:
        return json.dumps({"key": self.key, "origin": self.origin})

    @classmethod
    def read(cls, text: str) -> _Entry:
        try:
            found = json.loads(text)
            return cls(str(found["key"]), str(found["origin"]))
        except (ValueError, KeyError, TypeError):
            return cls(text, None)


class KeyStore:
    """Keys by provider id. ``use_keyring`` False forces the file. Blocking; call from a thread."""

    def __init__(self, path: Path, *, use_keyring: bool = True) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, _Entry | None] = {}
        # A keyring may hang (a locked keychain's dialog, a dead daemon): its own thread, so that no other waits for it.
        backend = _system_keyring() if use_keyring else None
        self._ring = _Ring(backend) if backend is not None else None

    def put(self, provider_id: str, key: str, url: str) -> None:
        """Keep ``key`` for the origin of ``url``. Raises KeysUnreadable or OSError; then nothing is changed."""
        entry = _Entry(key, origin_of(url))
        with self._lock:
            if self._ring is not None and self._ring.put(provider_id, entry.text()):
                self._known[provider_id] = entry
                return
            self._write({**self._read(), provider_id: entry.text()})
            self._known[provider_id] = entry

    def get(self, provider_id: str, url: str) -> str | None:
        """Return the key, or None when there is none for the origin of ``url``. Raises KeysUnreadable."""
        with self._lock:
            if provider_id not in self._known:
                self._known[provider_id] = self._find(provider_id)
            entry = self._known[provider_id]
        if entry is None or entry.origin not in (None, origin_of(url)):
            return None
        return entry.key

    def _find(self, provider_id: str) -> _Entry | None:
        text = self._read().get(provider_id)
        if text is None and self._ring is not None:
            # The first releases named entries by the data directory's path: moved, they were lost.
            text = self._ring.get(provider_id) or self._ring.get(f"{self._path.resolve()}:{provider_id}")
        return _Entry.read(text) if text is not None else None

    def drop(self, provider_id: str) -> None:
        """Forget the key, wherever it is. Raises KeysUnreadable or OSError."""
        with self._lock:
            self._known[provider_id] = None
            if self._ring is not None:
                for name in (provider_id, f"{self._path.resolve()}:{provider_id}"):
                    self._ring.drop(name)
            keys = self._read()
            if keys.pop(provider_id, None) is not None:
                self._write(keys)

    def _read(self) -> dict[str, str]:
        try:
            text = self._path.read_text("utf-8")
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise KeysUnreadable(f"{self._path} can't be read ({exc.strerror}); nothing was changed") from exc
        try:
            data = json.loads(text)
            return {str(k): str(v) for k, v in data.items()}
        except (ValueError, AttributeError):
            aside = self._path.with_name(f"{self._path.name}.damaged-{uuid.uuid4().hex[:8]}")
            self._path.rename(aside)
            log.error("%s is damaged: it was set aside as %s; enter the keys again", self._path.name, aside.name)
            return {}

    def _write(self, keys: dict[str, str]) -> None:
        fresh = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}.new")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as sink:
                json.dump(keys, sink)
                sink.flush()
                os.fsync(sink.fileno())
            fresh.replace(self._path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise


class _Ring:
    """The keyring behind a thread and a time-out. One that hung once is left alone until the next start."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._hung = False
        self._pool = ThreadPoolExecutor(1, "keyring")

    def _call(self, method: str, *args: str) -> Any:
        if self._hung:
            raise KeysUnreadable("the keyring did not answer; unlock it and start the service again")
        try:
            return self._pool.submit(getattr(self._backend, method), _SERVICE, *args).result(PATIENCE)
        except TimeoutError:
            self._hung = True
            return self._call(method)

    def put(self, name: str, text: str) -> bool:
        """Return whether it took the entry."""
        try:
            self._call("set_password", name, text)
        except Exception as exc:
            log.warning("the keyring refused a key (%s); it goes into a private file", type(exc).__name__)
            return False
        return True

    def get(self, name: str) -> str | None:
        """Return the entry, or None. Raises KeysUnreadable."""
        try:
            found: str | None = self._call("get_password", name)
        except KeysUnreadable:
            raise
        except Exception as exc:
            raise KeysUnreadable(f"the keyring gives no key ({type(exc).__name__}); unlock it and try again") from exc
        return found

    def drop(self, name: str) -> None:
        """Forget the entry."""
        try:
            self._call("delete_password", name)
        except Exception as exc:
            log.debug("the keyring had nothing to forget (%s)", type(exc).__name__)


def _system_keyring() -> Any | None:
    """Return the system's keyring, or None where there is none that keeps secrets."""
    try:
        import keyring
        from keyring.backends import fail, null

        backend = keyring.get_keyring()
        real = not isinstance(backend, (fail.Keyring, null.Keyring)) and backend.priority >= 1
        return backend if real else None
    except Exception as exc:
        log.info("no keyring here (%s)", type(exc).__name__)
        return None
