"""The limits of a child process that reads what nobody has looked at: memory, time, descriptors, files, no network."""

from __future__ import annotations

import contextlib
import os
import sys


def limit(*, memory: int, seconds: int, files: int, file_size: int) -> None:
    """Lower the limits of this process for good. ``memory`` and ``file_size`` in bytes, ``seconds`` of CPU time."""
    import resource

    def lower(what: int, value: int) -> None:
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (value, value))

    with contextlib.suppress(OSError):
        os.nice(10)
    leave_network()
    # Code and mapped files take address space that is no memory of its own: a gigabyte is for them.
    lower(resource.RLIMIT_AS, memory + (1 << 30))
    lower(resource.RLIMIT_CPU, seconds)
    lower(resource.RLIMIT_NOFILE, files)
    lower(resource.RLIMIT_FSIZE, file_size)
    lower(resource.RLIMIT_CORE, 0)


def leave_network() -> None:
    """On Linux go where there is no network at all, if the kernel lets an unprivileged process do so."""
    if sys.platform != "linux":
        return
    import ctypes

    new_user, new_net = 0x10000000, 0x40000000
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(new_net) != 0:
            libc.unshare(new_user | new_net)
