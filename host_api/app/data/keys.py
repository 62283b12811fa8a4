"""Providers' API keys: in the system's keyring when there is a real one, else in a 0600 file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger("host.keys")
_SERVICE = "mlx-sidecar-host"


class KeyStore:
    """Keys by provider id. ``use_keyring`` False forces the file."""

    def __init__(self, path: Path, *, use_keyring: bool = True) -> None:
        self._path = path
        self._keyring = _system_keyring() if use_keyring else None
        # Two data directories of one user share a keyring: the path keeps their entries apart.
        self._prefix = f"{path.resolve()}:"

    def put(self, provider_id: str, key: str) -> None:
        """Keep ``key``. Raises OSError when it can't be written."""
        if self._keyring is not None:
            try:
                self._keyring.set_password(_SERVICE, self._prefix + provider_id, key)
                return
            except Exception as exc:
                log.warning("the keyring refused a key (%s); it goes into a private file", type(exc).__name__)
        self._write({**self._read(), provider_id: key})

    def get(self, provider_id: str) -> str | None:
        """The key, or None."""
        if self._keyring is not None:
            with contextlib.suppress(Exception):
                found: str | None = self._keyring.get_password(_SERVICE, self._prefix + provider_id)
                if found is not None:
                    return found
        return self._read().get(provider_id)

    def drop(self, provider_id: str) -> None:
        """Forget the key, wherever it is."""
        if self._keyring is not None:
            with contextlib.suppress(Exception):
                self._keyring.delete_password(_SERVICE, self._prefix + provider_id)
        keys = self._read()
        if keys.pop(provider_id, None) is not None:
            self._write(keys)

    def _read(self) -> dict[str, str]:
        try:
            data = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as exc:
            log.error("%s can't be read (%s): keys are missing; enter them again", self._path.name, exc)
            return {}
        return {str(k): str(v) for k, v in data.items()} if isinstance(data, dict) else {}

    def _write(self, keys: dict[str, str]) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as sink:
            json.dump(keys, sink)
            sink.flush()
            os.fsync(sink.fileno())
        fresh.replace(self._path)


def _system_keyring() -> Any | None:
    """The system's keyring, or None where there is none that keeps secrets."""
    try:
        import keyring
        from keyring.backends import fail, null

        backend = keyring.get_keyring()
        real = not isinstance(backend, (fail.Keyring, null.Keyring)) and backend.priority >= 1
        return backend if real else None
    except Exception as exc:
        log.info("no keyring here (%s)", type(exc).__name__)
        return None
