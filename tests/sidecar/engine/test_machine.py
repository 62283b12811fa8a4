"""How much memory a process may use: control groups of both versions, Metal's share, and a real group's limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.engine import machine
from tools.stress import limited

GIB = 1 << 30


def written(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_groups_of_both_versions_and_those_above_are_read(tmp_path: Path) -> None:
    stat = "anon 5\ninactive_file 700\nactive_file 300\nslab 9\n"
    written(tmp_path, cgroup__controllers="memory")  # the root of version 2 has no limit of its own
    written(tmp_path / "user", memory__max="max\n", memory__current="1\n", memory__stat=stat)
    written(tmp_path / "user/app", memory__max="10000\n", memory__current="4000\n", memory__stat=stat)
    found = [g.read() for g in machine.groups("0::/user/app\n", tmp_path)]
    assert found == [machine.Memory(10_000, 7000), None]

    stat = "cache 5\ntotal_inactive_file 100\ntotal_active_file 0\n"
    old = {"memory__limit_in_bytes": "9000", "memory__usage_in_bytes": "8000", "memory__stat": stat}
    written(tmp_path / "memory/docker/abc", **old)
    found = [g.read() for g in machine.groups("5:cpu:/x\n4:memory:/docker/abc\n", tmp_path)]
    assert found == [machine.Memory(9000, 1100)]


def test_a_container_is_told_a_path_that_only_the_machine_has(tmp_path: Path) -> None:
    old = {"memory__limit_in_bytes": "9000", "memory__usage_in_bytes": "9500", "memory__stat": ""}
    written(tmp_path / "memory", **old)
    assert [g.read() for g in machine.groups("4:memory:/docker/abc\n", tmp_path)] == [machine.Memory(9000, 0)]
    assert list(machine.groups("4:memory:/docker/abc\n", tmp_path / "nothing")) == []


def test_metal_lets_the_gpu_hold_two_thirds_of_a_small_mac_and_three_quarters_of_a_large_one() -> None:
    """Its own numbers for Macs of 16, 32 and 64 GB, and what the user may set instead (not run on a Mac)."""
    assert machine.gpu_share(16 * GIB) == pytest.approx(10.67 * GIB, rel=0.01)
    assert machine.gpu_share(32 * GIB) == pytest.approx(21.33 * GIB, rel=0.01)
    assert machine.gpu_share(64 * GIB) == 48 * GIB
    assert machine.gpu_share(16 * GIB, wired_limit_mb=14 * 1024) == 14 * GIB
    assert machine.gpu_share(16 * GIB, wired_limit_mb=99 * 1024) == 16 * GIB


@pytest.mark.skipif(not limited.possible(), reason="control groups can't be made here")
def test_a_process_in_a_real_group_knows_its_limit() -> None:
    line = "from sidecar.engine import machine; now = machine.memory(); print(now.total, now.available)"
    with limited.group(400 << 20) as group:
        done = subprocess.run(
            [sys.executable, "-c", line], preexec_fn=group.enter, capture_output=True, text=True, timeout=60, check=True
        )
    total, available = map(int, done.stdout.split())
    assert total == 400 << 20
    assert 200 << 20 < available < 400 << 20
