"""One model in the hub's cache folder, laid out as every tool of the hub expects.

``blobs/<hash>`` is content, ``snapshots/<commit>/<path>`` links to it, ``refs/main`` names the commit. The ref is
written last, so that a half-fetched model or update is never taken for a whole one. A partial blob is
``blobs/<hash>.incomplete``; the hub's library uses names of its own for unfinished files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from host_api.protocol.lock import FileLock, held
from host_api.protocol.state_dir import StateDirError
from sidecar.models.downloads import HubFile, Listing
from sidecar.models.files import remove_tree, replace_text

_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
_REVISION = re.compile(r"[0-9A-Za-z][\w.-]{0,127}")
_BLOCK = 4 << 20


def default_cache() -> Path:
    """The hub's cache folder by its own environment variables."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if path := os.environ.get(name):
            return Path(os.path.expandvars(path)).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


class BeingPulled(OSError):
    """A model that can't be deleted, for it is being pulled."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is being pulled; end that first.")


class Store:
    """The folder of one model in ``cache``."""

    def __init__(self, cache: Path, hub_id: str) -> None:
        name = "models--" + hub_id.replace("/", "--")
        self.cache = cache
        self.root = cache / name
        self.locks = cache / ".locks" / name

    @property
    def lock(self) -> Path:
        """Held by the process that pulls this model."""
        return self.locks / "mlx-sidecar-pull.lock"

    @property
    def note(self) -> Path:
        """Where that process says how far it is."""
        return self.locks / "mlx-sidecar-pull.json"

    def prepare(self) -> None:
        """Make the folders. Raises OSError."""
        for folder in (self.root / "blobs", self.root / "snapshots", self.root / "refs", self.locks):
            folder.mkdir(parents=True, exist_ok=True)

    def blob(self, file: HubFile) -> Path:
        """Where the file's content is, or will be."""
        return self.root / "blobs" / file.etag

    def partial(self, file: HubFile) -> Path:
        """Where what has come of it is kept."""
        return self.root / "blobs" / f"{file.etag}.incomplete"

    def have(self, file: HubFile) -> int:
        """Bytes of the file on this disk, whole or partial."""
        with contextlib.suppress(OSError):
            if self.blob(file).stat().st_size == file.size:
                return file.size
        with contextlib.suppress(OSError):
            return min(self.partial(file).stat().st_size, file.size)
        return 0

    def whole(self, file: HubFile) -> bool:
        """Whether the blob is there."""
        try:
            return self.blob(file).stat().st_size == file.size
        except OSError:
            return False

    def publish(self, listing: Listing) -> Path:
        """Link every file into the commit's snapshot and make it the current one. Raises OSError."""
        snapshot = self.root / "snapshots" / listing.commit
        for file in listing.files:
            link = snapshot / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            target = os.path.relpath(self.blob(file), link.parent)
            if link.is_symlink() and str(link.readlink()) == target:
                continue
            spare = link.with_name(f".{link.name}.{os.getpid()}")
            spare.unlink(missing_ok=True)
            try:
                spare.symlink_to(target)
            except OSError:  # a file system without symbolic links
                shutil.copyfile(self.blob(file), spare)
            spare.replace(link)
        replace_text(self.root / "refs" / "main", listing.commit)
        return snapshot

    def snapshot(self) -> Path | None:
        """The current snapshot when it is whole, else None."""
        try:
            revision = (self.root / "refs" / "main").read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        path = self.root / "snapshots" / revision
        return path if _REVISION.fullmatch(revision) and is_whole(path) else None

    def read_note(self) -> dict[str, Any] | None:
        """How far another process's pull is, as it wrote last."""
        try:
            note = json.loads(self.note.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) else None

    def write_note(self, document: dict[str, Any] | None) -> None:
        """Say how far this process's pull is; None ends it. Best effort."""
        with contextlib.suppress(OSError):
            if document is None:
                self.note.unlink(missing_ok=True)
                return
            replace_text(self.note, json.dumps(document))

    def tidy(self) -> None:
        """Take away the folders when nothing came into them."""
        for folder in ("blobs", "snapshots", "refs", "."):
            with contextlib.suppress(OSError):
                (self.root / folder).rmdir()

    def remove(self) -> int:
        """Delete the model with everything that came of it; the bytes freed. Raises BeingPulled, OSError."""
        if not self.root.exists():
            return 0
        self.locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.lock)
        try:
            if not lock.try_exclusive():  # a pull that begins now would lose its folders
                raise BeingPulled(self.root.name.removeprefix("models--").replace("--", "/"))
            freed = self._remove_shared()
            if self.root.exists():
                freed += sum(p.lstat().st_size for p in self.root.rglob("*") if p.is_file() and not p.is_symlink())
                remove_tree(self.root)
            return freed
        finally:
            lock.close()

    def _remove_shared(self) -> int:
        """Let the hub's library delete what it may share between models (Xet's blobs)."""
        blobs = self.root / "blobs"
        if not any(p.is_symlink() for p in blobs.glob("*")):
            return 0
        from huggingface_hub import scan_cache_dir

        found = scan_cache_dir(self.cache)
        revisions = [r.commit_hash for repo in found.repos if repo.repo_path == self.root for r in repo.revisions]
        if not revisions:
            return 0
        strategy = found.delete_revisions(*revisions)
        strategy.execute()
        return strategy.expected_freed_size


def pulled_elsewhere(cache: Path, hub_id: str) -> dict[str, Any] | None:
    """What another process says of its pull of this model, or None when none pulls it."""
    store = Store(cache, hub_id)
    with contextlib.suppress(StateDirError):
        if store.lock.exists() and held(store.lock):
            return store.read_note() or {"model": hub_id, "status": "downloading", "completed": 0, "total": 0}
    return None


def is_whole(folder: Path) -> bool:
    """Whether a model folder has its configuration and all the weights its names or its index speak of."""
    if not (folder / "config.json").exists():
        return False
    names = {p.name for p in folder.glob("*.safetensors") if p.exists()}
    if not names:
        return False
    for name in list(names):
        if (match := _SHARD.fullmatch(name)) is not None:
            stem, count = match["stem"], match["count"]
            if any(f"{stem}-{i:05d}-of-{count}.safetensors" not in names for i in range(1, int(count) + 1)):
                return False
    index = folder / "model.safetensors.index.json"
    if index.is_symlink() or index.exists():
        try:
            wanted = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return False
        return all((folder / str(name)).exists() for name in wanted)
    return True


def digest_matches(path: Path, file: HubFile, each: Callable[[int], None]) -> bool:
    """Compare the content's hash with the hub's. ``each`` gets the bytes read so far. Raises OSError."""
    if file.sha256 is not None:
        digest, wanted = hashlib.sha256(), file.sha256
    else:
        digest, wanted = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False), file.git_sha1 or ""
    done = 0
    with path.open("rb") as data:
        while block := data.read(_BLOCK):
            digest.update(block)
            done += len(block)
            each(done)
    return done == file.size and digest.hexdigest() == wanted
