"""How much memory this process may use: the machine's, or what its control group or the GPU leaves of it. Bytes.

In a container, and under ``systemd-run -p MemoryMax=``, the kernel kills a process at the group's limit, however much
the machine has. What the group holds of files is not counted as used: the kernel takes it back first.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_SMALL_MAC = 32 << 30


@dataclass(frozen=True)
class Memory:
    """``total``: what there is for this process; ``available``: what is free of it now."""

    total: int
    available: int


@dataclass(frozen=True)
class Group:
    """The files of a control group that tell its memory. ``kept``: names in ``stat`` of files' pages."""

    limit: Path
    usage: Path
    stat: Path
    kept: tuple[str, ...]

    def read(self) -> Memory | None:
        """Return the limit and what is free of it; None without a limit."""
        try:
            limit = int(self.limit.read_text("ascii"))  # "max" is no number
            used = int(self.usage.read_text("ascii"))
            lines = [line.split() for line in self.stat.read_text("ascii").splitlines()]
        except (OSError, ValueError):
            return None
        files = sum(int(parts[1]) for parts in lines if len(parts) == 2 and parts[0] in self.kept)
        return Memory(limit, max(0, limit - used + files))


def memory() -> Memory:
    """Return the memory of this process: the least that the machine and its control groups leave it."""
    import psutil

    machine = psutil.virtual_memory()
    found = [Memory(machine.total, machine.available), *filter(None, (g.read() for g in _limited()))]
    return Memory(min(m.total for m in found), min(m.available for m in found))


def bounded() -> bool:
    """Return whether a control group has less memory for this process than the machine has."""
    return bool(_limited())


@cache
def _limited() -> tuple[Group, ...]:
    """Return the groups above this process with a limit below the machine's memory; looked for once."""
    if sys.platform != "linux":
        return ()
    import psutil

    try:
        own = Path("/proc/self/cgroup").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ()
    total = psutil.virtual_memory().total
    found = ((group, group.read()) for group in groups(own, ROOT))
    return tuple(group for group, now in found if now is not None and now.total < total)


def groups(own: str, root: Path) -> Iterator[Group]:
    """Yield the control groups that ``own`` (``/proc/self/cgroup``) names, of both versions, and those above them.

    A container sees its own group as the root, and may be told a path that only the machine has.
    """
    for line in own.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top, names, kept = root, ("memory.max", "memory.current"), ("inactive_file", "active_file")
        elif "memory" in controllers.split(","):
            top, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
            kept = ("total_inactive_file", "total_active_file")
        else:
            continue
        folder = top / path.strip("/")
        for one in [folder, *folder.parents]:
            if (one / names[0]).exists():
                yield Group(one / names[0], one / names[1], one / "memory.stat", kept)
            if one == top:
                break


def gpu_share(total: int, *, wired_limit_mb: int = 0) -> int:
    """Return the bytes that Metal lets the GPU hold of ``total``: two thirds up to 32 GiB, then three quarters.

    Metal's own word (``recommendedMaxWorkingSetSize``: 10.7 of 16 GB, 21.3 of 32, 48 of 64) is asked for in the engine;
    this is for the server, which loads no MLX. ``wired_limit_mb``: what the user set as ``iogpu.wired_limit_mb``.
    """
    if wired_limit_mb:
        return min(total, wired_limit_mb << 20)
    return total * 2 // 3 if total <= _SMALL_MAC else total * 3 // 4


def models_most(total: int) -> int:
    """Return what models may take together of ``total`` bytes of memory, for the server, which loads no MLX."""
    if sys.platform == "darwin":
        return gpu_share(total, wired_limit_mb=_sysctl("iogpu.wired_limit_mb"))
    return total * 9 // 10


def _sysctl(name: str) -> int:
    """Return a number of macOS's kernel, 0 where there is none."""
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    try:
        status = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    except (OSError, AttributeError):
        return 0
    return max(0, value.value) if status == 0 else 0
