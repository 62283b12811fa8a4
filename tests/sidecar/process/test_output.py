"""A managed sidecar's output file is emptied before it fills the disk; nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.process.output import bound


@pytest.mark.parametrize(("flags", "emptied"), [(os.O_APPEND, True), (0, False)])
def test_a_file_that_is_appended_to_is_emptied(tmp_path: Path, flags: int, emptied: bool) -> None:
    path = tmp_path / "launch.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags)
    try:
        os.write(descriptor, b"x" * 3000)
        assert not bound([descriptor], most=4000)
        assert bound([descriptor], most=2000) is emptied
        os.write(descriptor, b"later\n")
    finally:
        os.close(descriptor)
    text = path.read_text()
    assert text.endswith("later\n")
    assert (len(text) < 100) is emptied
    assert "\0" not in text
    assert ("were dropped" in text) is emptied


def test_pipes_and_closed_descriptors_are_left_alone() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        assert not bound([write, read], most=0)
    finally:
        os.close(write)
