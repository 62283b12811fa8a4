"""What a person sees while something takes its time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from sidecar.models.starter.source import Progress


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error, one a phase."""
    from tqdm import tqdm

    bar: Any = None
    phase = ""

    def progress(name: str, done: int, total: int) -> None:
        nonlocal bar, phase
        if name != phase:
            if bar is not None:
                bar.close()
            units = {"converting": {"unit": "tensor"}, "loading": {"unit": "%"}}
            unit: dict[str, Any] = units.get(name) or {"unit": "B", "unit_scale": True}
            bar = tqdm(total=total, desc=name, file=sys.stderr, initial=0, **unit)
            phase = name
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
