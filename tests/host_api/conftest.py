"""The two implementations, and state directories that nothing is left in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.programs import PYTHON, Program


@pytest.fixture(scope="session")
def both() -> dict[str, Program]:
    """``py`` and ``rs``."""
    return {"py": PYTHON, "rs": programs.rust()}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory that doesn't exist yet."""
    with programs.swept(tmp_path / "state") as folder:
        yield folder
