"""Whether the machine should be spared work that nobody waits for: on battery, in its low-power mode, or hot.

Reading is apart from deciding. ``read`` looks at Linux's ``/sys`` (a folder given to it), on macOS it asks ``pmset``;
what can't be told is None and spares nothing. ``Quiet`` decides from that and a given clock: at once when it becomes
so, and only after a while when it ends, so that a fan or a loose plug does not switch work on and off.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

SYS = Path("/sys")
SETTLED = 60.0
"""Seconds for which all must be well before batch work goes on."""
EVERY = 5.0
"""Seconds between two looks."""
_PMSET = 5.0


@dataclass(frozen=True, kw_only=True)
class Power:
    """What is known of the machine. None: it does not tell. ``percent``: of its battery."""

    battery: bool | None = None
    saving: bool | None = None
    hot: bool | None = None
    percent: int | None = None

    @property
    def why(self) -> str | None:
        """Why batch work should wait, in words; None where it may go on."""
        if self.battery:
            return "the machine runs on battery"
        if self.saving:
            return "the machine saves power"
        return "the machine is hot" if self.hot else None


@dataclass
class Quiet:
    """Decides over time. ``wanted``: quiet mode is on; ``why``: why batch work waits now, None while it runs."""

    wanted: bool = False
    why: str | None = None
    _well_since: float | None = None

    def want(self, wanted: bool) -> None:
        """Turn quiet mode on or off; off lets work go on at once."""
        self.wanted = wanted
        if not wanted:
            self.why = self._well_since = None

    def decide(self, power: Power, now: float) -> bool:
        """Return whether batch work waits, by what the machine is like at ``now`` (monotonic seconds)."""
        if not self.wanted:
            return False
        if power.why is not None:
            self.why, self._well_since = power.why, None
        elif self.why is not None:
            self._well_since = now if self._well_since is None else self._well_since
            if now - self._well_since >= SETTLED:
                self.why = self._well_since = None
        return self.why is not None


def read(root: Path = SYS) -> Power:
    """Return what the machine tells now. Blocking for up to some seconds on macOS."""
    return _from_pmset() if sys.platform == "darwin" and root == SYS else from_sys(root)


# --- Linux --------------------------------------------------------------------------------------------------
def from_sys(root: Path) -> Power:
    """Return what a ``/sys`` tells: supplies but those of mice and headsets, the platform's profile, thermal zones."""
    mains: list[bool] = []
    discharging: list[bool] = []
    percent = None
    for supply in sorted((root / "class" / "power_supply").glob("*")):
        if _text(supply / "scope") == "Device":
            continue
        kind = _text(supply / "type")
        if kind in ("Mains", "USB", "USB_C", "Wireless") and (online := _text(supply / "online")):
            mains.append(online != "0")
        elif kind == "Battery":
            discharging.append(_text(supply / "status") == "Discharging")
            percent = _number(supply / "capacity") if percent is None else percent
    battery = any(discharging) and not any(mains) if mains or discharging else None
    profile = _text(root / "firmware" / "acpi" / "platform_profile")
    saving = profile in ("low-power", "quiet") if profile else None
    return Power(battery=battery, saving=saving, hot=_hot(root), percent=percent)


def _hot(root: Path) -> bool | None:
    """Return whether a thermal zone has reached the temperature at which the system slows down or worse."""
    known = None
    for zone in sorted((root / "class" / "thermal").glob("thermal_zone*")):
        now = _number(zone / "temp")
        for kind in sorted(zone.glob("trip_point_*_type")):
            if _text(kind) not in ("passive", "hot", "critical"):
                continue
            limit = _number(kind.with_name(kind.name.replace("_type", "_temp")))
            if now is None or limit is None or limit <= 0:
                continue
            known = bool(known) or now >= limit
    return known


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


# --- macOS --------------------------------------------------------------------------------------------------
def _from_pmset() -> Power:
    plugged = None
    with contextlib.suppress(Exception):
        plugged = psutil.sensors_battery()
    battery = None if plugged is None or plugged.power_plugged is None else not plugged.power_plugged
    percent = None if plugged is None else round(plugged.percent)
    return Power(battery=battery, percent=percent, saving=saving_of(_pmset("-g")), hot=hot_of(_pmset("-g", "therm")))


def _pmset(*args: str) -> str:
    try:
        done = subprocess.run(["/usr/bin/pmset", *args], capture_output=True, text=True, timeout=_PMSET, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def saving_of(text: str) -> bool | None:
    """Return whether ``pmset -g`` says that Low Power Mode is on."""
    found = re.search(r"^\s*(?:lowpowermode|powermode)\s+(\d)", text, re.MULTILINE)
    return None if found is None else found[1] == "1"


def hot_of(text: str) -> bool | None:
    """Return whether ``pmset -g therm`` says that the processor is slowed down."""
    if "No thermal warning level has been recorded" in text:
        return False
    limits = [int(n) for n in re.findall(r"CPU_(?:Speed|Scheduler)_Limit\s*=\s*(\d+)", text)]
    return any(n < 100 for n in limits) if limits else None
