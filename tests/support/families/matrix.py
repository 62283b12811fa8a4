"""Run families through the columns, and write the table."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.families import over_http
from tests.support.families.folder import build
from tests.support.families.scenes import COLUMNS, PICTURES, TEXTS, Bench
from tests.support.families.spec import FAMILIES


@dataclass
class Row:
    """A family's line: per column [] for right or what is wrong; the record's reasons; what mlx-vlm itself can't."""

    name: str
    cells: dict[str, list[str]] = field(default_factory=dict)
    record: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    seconds: float = 0.0


def load(name: str) -> Bench:
    """Return a family on the bench. Raises what building or loading it raises."""
    from tests.support.families.engine import Engine
    from tests.support.families.reference import Reference

    family = FAMILIES[name]
    path = build(name)
    if family.prepare is not None:
        family.prepare()
    return Bench(family, Engine(path), Reference(path, family))


def run(name: str, columns: Sequence[str] = tuple(COLUMNS), url: str = "") -> Row:
    """Return a family's line; ``url``: of a server that serves the family, for the column "server"."""
    began = time.monotonic()
    row = Row(name, own=dict(FAMILIES[name].own_fault))
    try:
        bench = load(name)
    except Exception as exc:
        row.refused = f"{type(exc).__name__}: {exc}"[:400]
        return row
    row.own |= steadiness(bench)
    bench.blind = "image" in row.own
    for column in columns:
        if (column in PICTURES and not bench.sees) or (
            column in ("own answer kept", "resumed") and "own answer" in row.own
        ):
            continue
        row.cells[column] = cell(bench, column)
    row.record = bench.engine.record
    if url and over_http.servable(name):
        row.cells["server"] = over_http.differences(bench, url)
    row.seconds = time.monotonic() - began
    return row


def cell(bench: Bench, column: str) -> list[str]:
    """Return what is wrong in one column. Every column begins with an engine that holds nothing."""
    bench.engine.set()
    bench.engine.forget()
    try:
        return COLUMNS[column](bench)
    except Exception as exc:
        bench.engine.runner.fail_all(500, "the column ended")
        last = traceback.extract_tb(exc.__traceback__)[-1]
        return [f"{type(exc).__name__}: {exc} ({last.filename.rsplit('/', 1)[-1]}:{last.lineno})"[:300]]


def steadiness(bench: Bench) -> dict[str, str]:
    """Return what mlx-vlm's own answers depend on that they shouldn't, by kind of prompt."""
    from tests.support.families.reference import picture

    out = {}
    for kind, count in (("text", 0), ("image", 1)):
        if count and not bench.sees:
            continue
        images = [picture(i, bench.family.side) for i in range(count)]
        try:
            inputs = bench.reference.inputs([{"role": "user", "content": TEXTS[0]}], images)
        except Exception as exc:
            out[kind] = f"mlx-vlm itself fails: {exc}"[:200]
            continue
        first, again = bench.reference.generate(inputs), bench.reference.generate(inputs)
        pieces = bench.reference.generate(inputs, step=8)
        for what, other in (("from call to call", again), ("with prefill_step_size", pieces)):
            apart = max((abs(a - b) for a, b in zip(first.logprobs, other.logprobs, strict=False)), default=0.0)
            if first.tokens[:1] != other.tokens[:1] or not apart < 0.02:
                out[f"{kind} {what}"] = f"mlx-vlm's own answers change {what}"
    inputs = bench.reference.inputs([{"role": "user", "content": TEXTS[2]}], [])
    first = bench.reference.generate(inputs)
    again = bench.reference.generate(after(inputs, first.tokens[:3]))
    if again.tokens and len(first.tokens) > 3 and not abs(again.logprobs[0] - first.logprobs[3]) < 0.02:
        out["own answer"] = "mlx-vlm scores its answer otherwise step by step than as part of a prompt"
    return out


def after(inputs: dict[str, Any], tokens: Sequence[int]) -> dict[str, Any]:
    """Return a text prompt's inputs with tokens after it."""
    import mlx.core as mx

    ids = mx.concatenate([inputs["input_ids"], mx.array([list(tokens)], dtype=inputs["input_ids"].dtype)], axis=1)
    return {"input_ids": ids, "attention_mask": mx.ones(ids.shape, dtype=mx.int32)}


def quiet() -> None:
    """Silence what the engine and the libraries log of the faults that are looked for."""
    import warnings

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def report(row: Row) -> str:
    """Return a family's line for people: what is wrong, and mlx-vlm's own faults."""
    wrong = {k: v for k, v in row.cells.items() if v}
    state = f"refused: {row.refused}" if row.refused else "wrong" if wrong else "right"
    lines = [f"{row.name}: {state} ({row.seconds:.1f} s)"]
    lines += [f"    mlx-vlm's own: {key}: {text}" for key, text in row.own.items()]
    lines += [f"    no {key}: {text}" for key, text in row.record.items()]
    lines += [f"    {column}: {'; '.join(why[:3])}"[:420] for column, why in wrong.items()]
    return "\n".join(lines)


if __name__ == "__main__":  # the families named, in this process
    quiet()
    for name in sys.argv[1:] or list(FAMILIES):
        sys.stdout.write(report(run(name)) + "\n")
        sys.stdout.flush()
