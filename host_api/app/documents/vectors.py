"""Child chunks in LanceDB: their vectors, and their words for full-text search. Blocking; call from a thread.

A table for each embedding model, since vectors of different models can't be compared; words can, so a search by words
goes through all tables, and a document indexed with an earlier model is still found by what it says.

Each write is a version and a few files. After ``_WRITES`` of them the table is compacted, old versions are dropped and
the indexes take in what is new; 300 pages used to leave 1,518 files and made a search ten times slower. Until then
LanceDB looks through the new rows one by one, so nothing is missed. Readers take no lock: a table that is opened is
one version for as long as they look.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host_api.app.documents import terms

_SAFE = re.compile(r"[0-9a-f]{32}(:\d+)?")
_WRITES = 40
_MANY = 20_000  # rows from which on the vectors are worth an index
_OLD = re.compile(r"chunks_[0-9a-f]{12}_\d+")
_NAMED = re.compile(r"words_[0-9a-f]{12}_(\d+)")


@dataclass(frozen=True)
class Child:
    """A chunk: the job and page (``unit``) it is of, its parent's position there and its own in that, text, vector.

    ``context`` is what else it is found by: the document's name and the headings it stands under.
    """

    job: str
    unit: str
    parent: int
    child: int
    text: str
    context: str
    vector: list[float]


@dataclass(frozen=True)
class Hit:
    """A chunk found: its cosine ``distance``, 0 to 2, or its score by ``words``, BM25's."""

    job: str
    unit: str
    parent: int
    child: int
    text: str
    terms: str
    distance: float | None = None
    words: float | None = None


class Vectors:
    """The store. One process at a time may write to a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._db: Any = None
        self._writes: dict[str, int] = {}

    def _open(self) -> Any:
        if self._db is None:
            import lancedb

            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            db = lancedb.connect(self._folder)
            for name in db.list_tables(limit=10_000).tables:
                if _OLD.fullmatch(name):
                    self._upgrade(db, name)
            self._db = db
        return self._db

    def _names(self) -> list[str]:
        return [n for n in self._open().list_tables(limit=10_000).tables if _NAMED.fullmatch(n)]

    def _upgrade(self, db: Any, name: str) -> None:
        """Take over a table that was made before there was a search by words."""
        rows = db.open_table(name).to_arrow().to_pylist()
        fresh = name.replace("chunks_", "words_")
        if fresh in db.list_tables(limit=10_000).tables:
            db.drop_table(fresh)  # of an upgrade that was killed: the old table still has everything
        if rows:
            table = _made(db, fresh, len(rows[0]["vector"]))
            table.add([{**row, "child": 0, "terms": terms.indexed(row["text"])} for row in rows])
            table.optimize()
        db.drop_table(name)

    def replace(
        self, model: str, job: str, unit: str, children: Sequence[Child], wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Make ``children`` all that is stored of a unit, for any model; done twice it is the same.

        ``wanted`` is asked once it is this call's turn: a job that was removed meanwhile gets nothing stored.
        """
        key = _checked(f"{job}:{unit}")
        with self._lock:
            if not wanted():
                return
            db = self._open()
            name = _table(model, len(children[0].vector)) if children else ""
            for other in self._names():
                if other != name:
                    self._delete(other, f"key = '{key}'")
            if not children:
                return
            table = _made(db, name, len(children[0].vector))
            rows = [
                {
                    "key": key,
                    "job": c.job,
                    "unit": c.unit,
                    "text": c.text,
                    "terms": terms.indexed(f"{c.context}\n{c.text}"),
                    "parent": c.parent,
                    "child": c.child,
                    "vector": c.vector,
                }
                for c in children
            ]
            with contextlib.suppress(ValueError):  # nothing to delete
                table.delete(f"key = '{key}'")
            table.add(rows)
            self._wrote(db, name)

    def _delete(self, name: str, where: str) -> None:
        table = self._db.open_table(name)
        if table.count_rows(where):
            table.delete(where)
            if table.count_rows():
                self._wrote(self._db, name)
            else:  # of an embedding model that nothing was made with any more
                self._db.drop_table(name)
                self._writes.pop(name, None)

    def _wrote(self, db: Any, name: str) -> None:
        self._writes[name] = self._writes.get(name, 0) + 1
        if self._writes[name] >= _WRITES:
            self._compact(db, name)

    def _compact(self, db: Any, name: str) -> None:
        self._writes[name] = 0
        table = db.open_table(name)
        table.optimize(cleanup_older_than=datetime.timedelta(seconds=60))
        indexes = {i.name for i in table.list_indices()}
        if "vector_idx" not in indexes and table.count_rows() > _MANY:
            from lancedb.index import IvfFlat

            table.create_index("vector", config=IvfFlat(distance_type="cosine"))

    def compact(self) -> None:
        """Put what was written lately in order; cheap when nothing was."""
        with self._lock:
            for name in [n for n, count in self._writes.items() if count]:
                with contextlib.suppress(ValueError, RuntimeError):  # it will be tried again after the next write
                    self._compact(self._open(), name)

    def remove(self, job: str) -> None:
        """Forget all chunks of a job."""
        _checked(job)
        with self._lock:
            if self._folder.exists():
                for name in self._names():
                    self._delete(name, f"job = '{job}'")

    def near(self, model: str, vector: list[float], limit: int) -> list[Hit]:
        """Return the chunks nearest in meaning, nearest first."""
        name = _table(model, len(vector))
        if not self._folder.exists() or name not in self._names():
            return []
        rows: list[dict[str, Any]] = []
        with self._still(name):
            found = self._open().open_table(name).search(vector).distance_type("cosine").nprobes(32)
            rows = found.select([*_COLUMNS, "_distance"]).limit(limit).to_list()
        return [_hit(row, distance=float(row["_distance"])) for row in rows]

    @contextlib.contextmanager
    def _still(self, name: str) -> Iterator[None]:
        """End the block quietly when the table ``name`` was dropped amid it."""
        try:
            yield
        except (ValueError, RuntimeError):
            if name in self._names():
                raise

    def with_words(self, query: str, limit: int) -> list[Hit]:
        """Return the chunks that have the query's words, best first, from the tables of all models."""
        wanted = terms.asked(query)
        if not wanted or not self._folder.exists():
            return []
        found: list[Hit] = []
        for name in self._names():
            with self._still(name):
                rows = self._open().open_table(name).search(wanted, query_type="fts", fts_columns="terms")
                found += [
                    _hit(row, words=float(row["_score"]))
                    for row in rows.select([*_COLUMNS, "_score"]).limit(limit).to_list()
                ]
        return sorted(found, key=lambda h: -(h.words or 0.0))[:limit]


def _made(db: Any, name: str, size: int) -> Any:
    """Return the table called ``name``, made when new, with its index of words."""
    import pyarrow as pa
    from lancedb.index import FTS, BTree

    texts = [pa.field(c, pa.string()) for c in ("key", "job", "unit", "text", "terms")]
    numbers = [pa.field(c, pa.int32()) for c in ("parent", "child")]
    vector = pa.field("vector", pa.list_(pa.float32(), size))
    table = db.create_table(name, schema=pa.schema([*texts, *numbers, vector]), exist_ok=True)
    # A process that was killed between the three steps left a table without them: found by words all the same, by
    # looking through every row.
    there = {index.name for index in table.list_indices()}
    plain = FTS(base_tokenizer="whitespace", lower_case=False, stem=False, remove_stop_words=False, ascii_folding=False)
    if "terms_idx" not in there:
        table.create_index("terms", config=plain)
    if "key_idx" not in there:
        table.create_index("key", config=BTree())
    return table


_COLUMNS = ("job", "unit", "parent", "child", "text", "terms")


def _hit(row: dict[str, Any], *, distance: float | None = None, words: float | None = None) -> Hit:
    job, unit, parent, child, text, indexed = (row[c] for c in _COLUMNS)
    return Hit(job, unit, parent, child, text, indexed, distance, words)


def _checked(key: str) -> str:
    # It goes into a filter expression.
    if not _SAFE.fullmatch(key):
        raise ValueError(f"not a key: {key!r}")
    return key


def _table(model: str, size: int) -> str:
    return f"words_{hashlib.sha256(model.encode()).hexdigest()[:12]}_{size}"
