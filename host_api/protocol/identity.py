"""Who a PID is: a start token that no later process with the same PID has, whatever the clock does."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from host_api.protocol.decision import Identity
from host_api.protocol.state_dir import StateDirError


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


@cache
def own_namespace() -> str | None:
    """Return the PID namespace of this process, where the platform has such (Linux): a PID means nothing in another."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def own_token() -> str:
    """Return the start token of this process. Raises StateDirError where the system won't tell it."""
    try:
        token = start_token(os.getpid())
    except (OSError, ValueError, IndexError) as exc:
        raise StateDirError(f"this process can't be identified ({exc}); is /proc mounted?") from exc
    if token is None:
        raise StateDirError("this process can't be identified: /proc is missing; mount it")
    return token


def identify(pid: int, token: str, namespace: str | None = None) -> Identity:
    """Compare the process ``pid`` of ``namespace`` with ``token``. Never raises.

    UNKNOWN for another PID namespace, and for another boot of this machine or another machine (a home folder on a
    network disk): its PIDs can't be looked up here.
    """
    if namespace is not None and own_namespace() not in (None, namespace):
        return Identity.UNKNOWN
    try:
        found = start_token(pid)
        if token.startswith("linux:") and sys.platform.startswith("linux") and token.split(":")[1] != _boot_id():
            return Identity.UNKNOWN
    except (OSError, ValueError, IndexError):
        return Identity.UNKNOWN
    if found is None:
        return Identity.GONE
    return Identity.MATCH if found == token else Identity.MISMATCH


def cpu_and_memory(pid: int) -> tuple[int, int]:
    """Return a process's CPU time in clock ticks and its resident pages; zeros where that can't be told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        fields = stat[stat.rindex(b")") + 2 :].split()
        return int(fields[11]) + int(fields[12]), int(fields[21])
    except (OSError, ValueError, IndexError):
        return 0, 0
