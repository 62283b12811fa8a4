"""Comma- and tab-separated files: one table, whatever its separator, in any encoding that can be told."""

from __future__ import annotations

import csv
import io
import itertools

from host_api.app.documents.content import Limits, PageBuilder, Reading
from host_api.app.documents.readers.text import decode

_SEPARATORS = ",;\t|"


def read(content: bytes, limits: Limits, *, separator: str | None = None) -> Reading:
    """Return a table of values as one page. Raises a 415."""
    text, note = decode(content)
    notes = [note] if note else []
    named = text.partition("\n")[0].strip()
    if named.lower().startswith("sep=") and len(named) == 5:  # what Excel writes above its tables
        separator, text = named[-1], text.partition("\n")[2]
    rows: list[list[str]] = []
    cells = 0
    csv.field_size_limit(min(limits.characters, 2**31 - 1))
    found = csv.reader(io.StringIO(text.replace("\0", ""), newline=""), delimiter=separator or _separator(text))
    while True:
        try:
            row = next(found, None)
        except csv.Error as exc:
            notes.append(f"the table was read up to line {found.line_num} ({exc})")
            break
        if row is None:
            break
        cells += len(row)
        if cells > limits.cells:
            notes.append(f"only the first {len(rows):,} rows were read: a file may have {limits.cells:,} cells")
            break
        rows.append(row)
    made = PageBuilder(limits)
    made.table(rows)
    return Reading(1, (made.page(1),), notes=notes)


def _separator(text: str) -> str:
    """Return the separator that parts the first lines into the most columns, and into equally many."""
    lines = list(itertools.islice((line for line in text.splitlines() if line.strip()), 20))

    def fits(mark: str) -> tuple[float, int]:
        counts = [len(row) for row in csv.reader(lines, delimiter=mark)]
        usual = max(set(counts), key=counts.count) if counts else 1
        return (counts.count(usual) / max(1, len(counts)) if usual > 1 else 0.0, usual)

    try:
        return max(_SEPARATORS, key=fits)
    except csv.Error:
        return ","
