"""Memory pressure of the machine, and what to give up for it. Readings at the edge, the decision pure."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path

PSI = Path("/proc/pressure/memory")
_SOME, _FULL = 10.0, 10.0  # per cent of the last ten seconds in which some, or all, work waited for memory
_CACHES_EVERY = 30.0  # seconds
_MODELS_EVERY = 5.0


class Level(IntEnum):
    """How short of memory the machine is."""

    NORMAL = 0
    WARNING = 1
    CRITICAL = 2


class Shed(Enum):
    """What to give up."""

    NOTHING = "nothing"
    CACHES = "caches"
    MODEL = "model"


def of_psi(text: str) -> Level:
    """The level Linux's pressure stall information speaks of."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        with contextlib.suppress(ValueError):
            fields = dict(part.split("=", 1) for part in rest.split())
            values[kind] = float(fields.get("avg10", "0"))
    if values.get("full", 0.0) >= _FULL:
        return Level.CRITICAL
    return Level.WARNING if values.get("some", 0.0) >= _SOME else Level.NORMAL


def of_darwin(value: int) -> Level:
    """The level of macOS's ``kern.memorystatus_vm_pressure_level``: 1 normal, 2 warning, 4 critical."""
    return {2: Level.WARNING, 4: Level.CRITICAL}.get(value, Level.NORMAL)


def read() -> Level:
    """The machine's level now; NORMAL where it can't be known."""
    if sys.platform == "darwin":
        value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
        with contextlib.suppress(OSError, AttributeError):
            call = ctypes.CDLL(None).sysctlbyname
            name = b"kern.memorystatus_vm_pressure_level"
            if call(name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
                return of_darwin(value.value)
        return Level.NORMAL
    try:
        return of_psi(PSI.read_text("ascii"))
    except (OSError, UnicodeDecodeError):
        return Level.NORMAL


@dataclass
class Shedder:
    """Caches at a warning; when it is critical and stays so, one idle model after the other. Times in seconds."""

    caches_at: float = float("-inf")
    model_at: float = float("-inf")

    def decide(self, level: Level, now: float) -> Shed:
        """What to give up now."""
        if level is Level.NORMAL:
            return Shed.NOTHING
        if now - self.caches_at >= _CACHES_EVERY:
            self.caches_at = self.model_at = now
            return Shed.CACHES
        if level is Level.CRITICAL and now - self.model_at >= _MODELS_EVERY:
            self.model_at = now
            return Shed.MODEL
        return Shed.NOTHING
