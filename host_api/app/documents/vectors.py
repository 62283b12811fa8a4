"""Child chunks and their vectors in LanceDB. Blocking; call from a thread."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SAFE = re.compile(r"[0-9a-f]{32}(:\d+)?")


@dataclass(frozen=True)
class Child:
    """A chunk: the job and page (``unit``) it is of, its parent's position there, its text and vector."""

    job: str
    unit: str
    parent: int
    text: str
    vector: list[float]


@dataclass(frozen=True)
class Hit:
    """A chunk found; ``distance`` is the cosine distance, 0 to 2."""

    job: str
    unit: str
    parent: int
    text: str
    distance: float


class Vectors:
    """One table for every embedding model, since their vectors can't be compared."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._db: Any = None

    def _open(self) -> Any:
        if self._db is None:
            import lancedb

            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = lancedb.connect(self._folder)
        return self._db

    def _names(self) -> list[str]:
        return list(self._open().list_tables().tables)

    def replace(self, model: str, job: str, unit: str, children: list[Child]) -> None:
        """Make ``children`` all that is stored of a unit; done twice it is the same."""
        key = _checked(f"{job}:{unit}")
        with self._lock:
            size = len(children[0].vector) if children else 0
            name = _table(model, size)
            if children and name not in self._names():
                import pyarrow as pa

                columns = [pa.field(c, pa.string()) for c in ("key", "job", "unit", "text")]
                vector = pa.field("vector", pa.list_(pa.float32(), size))
                self._db.create_table(name, schema=pa.schema([*columns, pa.field("parent", pa.int32()), vector]))
            if not children:
                return
            table = self._db.open_table(name)
            table.delete(f"key = '{key}'")
            table.add([{"key": key, **child.__dict__} for child in children])

    def remove(self, job: str) -> None:
        """Forget all chunks of a job."""
        _checked(job)
        with self._lock:
            if self._folder.exists():
                for name in self._names():
                    self._db.open_table(name).delete(f"job = '{job}'")

    def search(self, model: str, vector: list[float], limit: int) -> list[Hit]:
        """The nearest chunks, nearest first."""
        with self._lock:
            if not self._folder.exists() or _table(model, len(vector)) not in self._names():
                return []
            table = self._db.open_table(_table(model, len(vector)))
            rows = table.search(vector).distance_type("cosine").limit(limit).to_list()
        return [Hit(r["job"], r["unit"], r["parent"], r["text"], float(r["_distance"])) for r in rows]


def _checked(key: str) -> str:
    # It goes into a filter expression.
    if not _SAFE.fullmatch(key):
        raise ValueError(f"not a key: {key!r}")
    return key


def _table(model: str, size: int) -> str:
    return f"chunks_{hashlib.sha256(model.encode()).hexdigest()[:12]}_{size}"
