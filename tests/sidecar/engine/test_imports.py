"""A module that is imported is a step of its own: a slow machine's imports are no hang, and a hang in one still is."""

from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path

import pytest

from sidecar.engine.imports import stepwise


def test_each_module_is_a_step_and_only_of_the_thread_that_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"mlx_sidecar_step_{i}" for i in range(4)]
    for name, following in zip(names, [*names[1:3], "", ""], strict=True):
        (tmp_path / f"{name}.py").write_text(f"import {following}\n" if following else "")
    monkeypatch.syspath_prepend(tmp_path)
    before, steps = list(sys.meta_path), [0]

    def step() -> None:
        steps[0] += 1

    with stepwise(step):
        importlib.import_module(names[0])
        assert steps == [3]
        thread = threading.Thread(target=importlib.import_module, args=(names[3],))
        thread.start()
        thread.join()
    assert steps == [3]
    assert sys.meta_path == before
    with pytest.raises(ModuleNotFoundError), stepwise(step):
        importlib.import_module("mlx_sidecar_no_such_step")
    assert sys.meta_path == before
