"""A control group with a memory limit, made by hand: Linux, as root, version 1 or 2. The kernel kills at its limit."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """A control group. ``new``: of version 2."""

    folder: Path
    new: bool

    def enter(self) -> None:
        """Put the calling process in; its children are in as well."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def pids(self) -> list[int]:
        """Return the processes that are in."""
        return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]

    def own(self) -> int:
        """Return the bytes its processes have that are no file's: what the kernel can't take back."""
        names = ("anon", "shmem", "kernel_stack") if self.new else ("total_rss", "total_shmem")
        return sum(value for name, value in self._pairs("memory.stat") if name in names)

    def kills(self) -> int:
        """Return how many of its processes the kernel has killed for want of memory."""
        name = "memory.events" if self.new else "memory.oom_control"
        return sum(value for key, value in self._pairs(name) if key == "oom_kill")

    def _pairs(self, name: str) -> list[tuple[str, int]]:
        lines = (line.split() for line in (self.folder / name).read_text().splitlines())
        return [(parts[0], int(parts[1])) for parts in lines if len(parts) == 2]


def possible() -> bool:
    """Return whether groups with a memory limit can be made by this process."""
    try:
        with group(64 << 20):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def group(limit: int) -> Iterator[Group]:
    """Make a group of at most ``limit`` bytes and take it away again. Raises OSError where that can't be done."""
    old, name = ROOT / "memory", f"mlx-sidecar-{os.getpid()}-{time.monotonic_ns()}"
    new = not (old / "memory.limit_in_bytes").exists()
    folder = (ROOT if new else old) / name
    folder.mkdir()
    try:
        (folder / ("memory.max" if new else "memory.limit_in_bytes")).write_text(str(limit))
        if new:
            with contextlib.suppress(OSError):
                (folder / "memory.swap.max").write_text("0")
        yield Group(folder, new)
    finally:
        end = time.monotonic() + 10
        while True:  # its last process may end after its parent has
            try:
                folder.rmdir()
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
