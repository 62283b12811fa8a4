"""A folder of encrypted files, bounded in bytes: what may outlive the process, and nobody else can read.

Each file is one message of an authenticated cipher (libsodium's AES-256-GCM where the processor has it, else
XChaCha20-Poly1305) under a random key of 32 bytes that lies beside the folder (0600). The file's name is authenticated
with it, so that a file under another's name is as good as a damaged one. What can't be opened is removed with a line in
the log, and counts as never written: at worst something is computed anew.

The folder holds one *edition* alone: another version of this program or of MLX, another bearer key, or another key
file means another edition, and the files of all others are removed when the folder is opened. Nothing is synced to the
disk: what a power cut leaves half written does not open.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from nacl import bindings as sodium
from nacl.exceptions import CryptoError, UnavailableError

from host_api.protocol import state_dir

log = logging.getLogger("sidecar.engine")

MAGIC = b"mlx-sidecar kept 1\n"
AES, CHACHA = b"A", b"X"
KEY_BYTES = 32
LEAST_FREE = 1 << 30
"""Bytes of the disk that are left to others."""
UNUSED = 30 * 86400.0
"""Seconds after which a file that nobody used is removed."""
REST = 600.0
"""Seconds without writing after a write that failed."""


class SealedFolder:
    """``limit``: bytes of all files. From any thread, once it is opened."""

    def __init__(self, root: Path, key_file: Path, *, limit: int, edition: str, least_free: int = LEAST_FREE) -> None:
        """Open the folder; make it and its key where they are missing. Raises OSError, StateDirError."""
        self._limit = limit
        self._least_free = least_free
        self._lock = threading.Lock()
        self._resting = 0.0
        self._key = _key(key_file)
        state_dir.make_folder(root)
        self._folder = root / self.mac(f"edition {edition}".encode()).hex()[:24]
        _remove_others(root, self._folder)
        state_dir.make_folder(self._folder)
        with contextlib.suppress(OSError):  # backups and indexers that know the mark leave the folder alone
            (root / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
        self._files = _files(self._folder)  # name → bytes, used
        self._make_room(0)

    def mac(self, data: bytes) -> bytes:
        """Return 32 bytes that nobody without the key can tell from random ones, the same for the same data."""
        return hashlib.blake2b(data, key=self._key, digest_size=32).digest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        with self._lock:
            return sum(size for size, _ in self._files.values())

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def names(self) -> list[str]:
        """Return all names."""
        with self._lock:
            return list(self._files)

    def beginning(self, heads: Iterable[str]) -> list[str]:
        """Return the names that begin like one of ``heads``, the last used first."""
        wanted = tuple(heads)
        with self._lock:
            found = [(used, name) for name, (_, used) in self._files.items() if name.startswith(wanted)]
        return [name for _, name in sorted(found, reverse=True)]

    def use(self, names: Iterable[str]) -> None:
        """Note that files were of use now; those named first are kept longest."""
        now = time.time()
        for i, name in enumerate(names):
            with self._lock:
                if name not in self._files:
                    continue
                self._files[name] = (self._files[name][0], now - i * 1e-3)
            with contextlib.suppress(OSError):
                os.utime(self._folder / name, (now, now - i * 1e-3))

    def read(self, name: str) -> bytes | None:
        """Return what was written under a name; None where it isn't there, or can't be opened and is removed."""
        try:
            with os.fdopen(state_dir.open_beneath(self._folder / name, os.O_RDONLY), "rb") as file:
                head, data = file.read(_HEAD), file.read()
        except OSError as exc:
            if name in self._files and not isinstance(exc, FileNotFoundError):
                log.warning("a kept prefix on disk can't be read (%s): it is computed anew", exc)
            self.remove([name])
            return None
        try:
            return _opened(head, data, name.encode(), self._key)
        except (ValueError, CryptoError) as exc:
            log.warning("a kept prefix on disk is thrown away and computed anew: %s %s", name, exc)
            self.remove([name])
            return None

    def write(self, name: str, data: bytes) -> bool:
        """Write a file, whole or not at all; return whether it is there. A full disk is left as it was found."""
        sealed = _sealed(data, name.encode(), self._key)
        if time.monotonic() < self._resting or len(sealed) > self._limit:
            return False
        spare = self._folder / f".{name}.{os.getpid()}"
        try:
            if shutil.disk_usage(self._folder).free < len(sealed) + self._least_free:
                raise OSError("the disk is nearly full")
            self._make_room(len(sealed))
            with os.fdopen(state_dir.open_beneath(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(sealed)
            spare.replace(self._folder / name)
        except OSError as exc:
            with contextlib.suppress(OSError):
                spare.unlink()
            self._resting = time.monotonic() + REST
            log.warning("no prefixes are kept on disk for %d minutes: %s", REST // 60, exc)
            return False
        with self._lock:
            self._files[name] = (len(sealed), time.time())
        return True

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; unknown ones are ignored."""
        for name in names:
            with self._lock:
                self._files.pop(name, None)
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()

    def _make_room(self, size: int) -> None:
        """Remove what was not used for longest until ``size`` bytes more are within the limit, and what is too old."""
        with self._lock:
            held = sum(one for one, _ in self._files.values()) + size
            old = time.time() - UNUSED
            gone = []
            for name, (one, used) in sorted(self._files.items(), key=lambda item: item[1][1]):
                if held <= self._limit and used > old:
                    break
                held -= one
                gone.append(name)
        self.remove(gone)


def throw_away(root: Path, key_file: Path) -> None:
    """Remove a folder of kept files with its key, if they are there."""
    if root.is_dir() and not root.is_symlink():
        shutil.rmtree(root, ignore_errors=True)
        log.info("kept prefixes on disk are off: what was there is removed")
    state_dir.remove(key_file)


def _key(path: Path) -> bytes:
    """Return the key in a file that only its owner can read; a new one where there is none such."""
    try:
        with os.fdopen(state_dir.open_beneath(path, os.O_RDONLY), "rb") as file:
            private = not os.fstat(file.fileno()).st_mode & 0o077
            key = file.read(KEY_BYTES + 1)
        if private and len(key) == KEY_BYTES:
            return key
        log.warning("%s is no key that only its owner can read: a new one is made", path)
    except FileNotFoundError:
        pass
    key = os.urandom(KEY_BYTES)
    state_dir.replace_file(path, key)
    return key


def _sealed(data: bytes, name: bytes, key: bytes) -> bytes:
    nonce = os.urandom(sodium.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES)
    try:
        short = nonce[: sodium.crypto_aead_aes256gcm_NPUBBYTES]
        return MAGIC + AES + nonce + sodium.crypto_aead_aes256gcm_encrypt(data, name, short, key)
    except UnavailableError:
        return MAGIC + CHACHA + nonce + sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(data, name, nonce, key)


_NONCE = sodium.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_HEAD = len(MAGIC) + 1 + _NONCE


def _opened(head: bytes, data: bytes, name: bytes, key: bytes) -> bytes:
    """Return what was sealed as ``data`` under ``head``. Raises ValueError, CryptoError."""
    if not head.startswith(MAGIC) or len(head) < _HEAD:
        raise ValueError("is not a file of this program, or cut short")
    cipher, nonce = head[len(MAGIC) :][:1], head[-_NONCE:]
    if cipher == AES:
        short = nonce[: sodium.crypto_aead_aes256gcm_NPUBBYTES]
        return sodium.crypto_aead_aes256gcm_decrypt(data, name, short, key)
    return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(data, name, nonce, key)


def _files(folder: Path) -> dict[str, tuple[int, float]]:
    """Return size and last use of the files of a folder; what a killed process left half written is removed."""
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            info = path.lstat()
            if path.name.startswith("."):
                path.unlink()
            else:
                found[path.name] = (info.st_size, info.st_mtime)
    return found


def _remove_others(root: Path, own: Path) -> None:
    others = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink() and path != own]
    for path in others:
        shutil.rmtree(path, ignore_errors=True)
    if others:
        log.info("kept prefixes of another version, or under another key, are thrown away")
