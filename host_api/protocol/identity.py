"""Who a PID is: a start token that no later process with the same PID has, whatever the clock does."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from host_api.protocol.decision import Identity


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def start_token(pid: int) -> str | None:
    """The start token of a live process; None when there is none (a zombie counts as none). Raises OSError."""
    if sys.platform == "darwin":
        return _darwin(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X", b"x"):
        return None
    return f"linux:{_boot_id()}:{int(fields[19])}"


def _darwin(pid: int) -> str | None:
    """``p_starttime``, the first member of ``struct kinfo_proc``, by sysctl."""
    import ctypes  # only here: it costs every host milliseconds

    libc = ctypes.CDLL(None, use_errno=True)
    mib = (ctypes.c_int * 4)(1, 14, 1, pid)  # CTL_KERN, KERN_PROC, KERN_PROC_PID
    buffer = ctypes.create_string_buffer(2048)
    size = ctypes.c_size_t(len(buffer))
    if libc.sysctl(mib, 4, buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if size.value < 40:
        return None
    seconds = int.from_bytes(buffer.raw[0:8], "little", signed=True)
    micros = int.from_bytes(buffer.raw[8:12], "little", signed=True)
    if buffer.raw[36:37] == b"\x05":  # p_stat is SZOMB
        return None
    return f"macos:{seconds}.{micros:06d}"


def own_token() -> str:
    """The start token of this process."""
    token = start_token(os.getpid())
    assert token is not None
    return token


def identify(pid: int, token: str) -> Identity:
    """The process ``pid`` against ``token``. Never raises."""
    try:
        found = start_token(pid)
    except (OSError, ValueError, IndexError):
        return Identity.UNKNOWN
    if found is None:
        return Identity.GONE
    return Identity.MATCH if found == token else Identity.MISMATCH
