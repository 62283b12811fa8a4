"""What an engine keeps on disk for its models: one folder in the state directory, opened at the first chat model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from host_api.protocol import state_dir
from sidecar import __version__
from sidecar.backend import findings
from sidecar.config import ConfigError, Settings
from sidecar.engine.pools import started
from sidecar.engine.prefix_disk import FeatureDisk, PrefixDisk
from sidecar.engine.sealed import SealedFolder, throw_away
from sidecar.errors import check_memory

log = logging.getLogger("sidecar.engine")

FOLDER, KEY = "prefixes", "prefixes.key"


@dataclass(frozen=True)
class ModelDisk:
    """What is kept of one model."""

    prefixes: PrefixDisk
    features: FeatureDisk


class Kept:
    """The folder and the two threads that read and write it."""

    def __init__(self, folder: SealedFolder) -> None:
        self.folder = folder
        self._reader, self._writer = started(1, "kept-read"), started(1, "kept-write")

    def of(self, path: Path) -> ModelDisk:
        """Return what is kept of the model in a folder; what was kept of another build of it is removed."""
        place = self.folder.mac(f"model {path}".encode()).hex()[:12]
        build = self.folder.mac(f"build {findings.fingerprint(path, 0)}".encode()).hex()[:12]
        label = f"{place}-{build}-"
        older = [n for n in self.folder.names() if n.startswith(f"{place}-") and not n.startswith(label)]
        if older:
            self.folder.remove(older)
            log.info("%s has changed: its kept prefixes are thrown away", path.name)
        threads = {"reader": self._reader, "writer": self._writer}
        return ModelDisk(PrefixDisk(self.folder, label, **threads), FeatureDisk(self.folder, label, **threads))

    def close(self) -> None:
        """Wait for what is being written."""
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)


def opened(settings: Settings) -> Kept | None:
    """Return what is kept on disk as the settings say; None where nothing is to be, or can be. Never raises for it."""
    root, key_file = settings.state_dir / FOLDER, settings.state_dir / KEY
    try:
        if not settings.prefix_disk_mb or not settings.prefix_cache_mb:
            throw_away(root, key_file)
            return None
        return Kept(SealedFolder(root, key_file, limit=settings.prefix_disk_mb << 20, edition=_edition(settings)))
    except (OSError, state_dir.StateDirError) as exc:
        check_memory(exc)
        log.warning("no prefixes are kept on disk: %s", exc)
        return None


def _edition(settings: Settings) -> str:
    """Return what files must agree with to be of use: versions, the device, and the bearer key where it is a file's."""
    try:
        key = sha256((settings.token() or "").encode()).hexdigest()
    except ConfigError:  # a key file that went away since the start
        key = ""
    return f"2 {__version__} {version('mlx')} {version('mlx-vlm')} {mx.default_device()} {settings.kv_bits} {key}"
