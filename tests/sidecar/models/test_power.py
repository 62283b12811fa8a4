"""Quiet mode: what a machine tells of its power, what is decided from that, and that chats are untouched."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from sidecar.engine.messages import Tier
from sidecar.models.power import Power, Quiet, from_sys, hot_of, saving_of
from tests.support.benches import Bench


def made(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


BATTERY = {
    "class/power_supply/AC/type": "Mains",
    "class/power_supply/AC/online": "0",
    "class/power_supply/BAT0/type": "Battery",
    "class/power_supply/BAT0/status": "Discharging",
    "class/power_supply/BAT0/capacity": "71",
}
MOUSE = {
    "class/power_supply/hidpp_0/type": "Battery",
    "class/power_supply/hidpp_0/scope": "Device",
    "class/power_supply/hidpp_0/status": "Discharging",
}
ZONE = {
    "class/thermal/thermal_zone0/temp": "96000",
    "class/thermal/thermal_zone0/trip_point_0_type": "active",
    "class/thermal/thermal_zone0/trip_point_0_temp": "50000",
    "class/thermal/thermal_zone0/trip_point_1_type": "passive",
    "class/thermal/thermal_zone0/trip_point_1_temp": "95000",
}


@pytest.mark.parametrize(
    ("files", "power"),
    [
        ({}, Power()),
        (MOUSE, Power()),
        (BATTERY | MOUSE, Power(battery=True, percent=71)),
        (BATTERY | {"class/power_supply/AC/online": "1"}, Power(battery=False, percent=71)),
        (BATTERY | {"class/power_supply/BAT0/status": "Full"}, Power(battery=False, percent=71)),
        ({"class/power_supply/AC/type": "Mains", "class/power_supply/AC/online": "1"}, Power(battery=False)),
        ({"firmware/acpi/platform_profile": "low-power"}, Power(saving=True)),
        ({"firmware/acpi/platform_profile": "performance"}, Power(saving=False)),
        (ZONE, Power(hot=True)),
        (ZONE | {"class/thermal/thermal_zone0/temp": "60000"}, Power(hot=False)),
        (ZONE | {"class/thermal/thermal_zone0/temp": ""}, Power()),
    ],
    ids=["none", "mouse", "battery", "mains", "full", "desktop", "saving", "fast", "hot", "cool", "mute"],
)
def test_what_a_linux_machine_tells(tmp_path: Path, files: dict[str, str], power: Power) -> None:
    assert from_sys(made(tmp_path, files)) == power


def test_what_pmset_says() -> None:
    assert saving_of(" lowpowermode         1\n") is True
    assert saving_of("System-wide power settings:\n powermode            0\n") is False
    assert saving_of("") is None
    assert hot_of("Note: No thermal warning level has been recorded\n") is False
    assert hot_of("\tCPU_Scheduler_Limit \t= 100\n\tCPU_Speed_Limit \t= 60\n") is True
    assert hot_of("\tCPU_Speed_Limit \t= 100\n") is False
    assert hot_of("") is None


def test_work_waits_at_once_and_goes_on_after_a_while() -> None:
    quiet = Quiet()
    battery, mains = Power(battery=True), Power(battery=False)
    assert not quiet.decide(battery, 0)
    quiet.want(True)
    assert not quiet.decide(Power(), 1)
    assert quiet.decide(battery, 2)
    assert quiet.why == "the machine runs on battery"
    assert quiet.decide(mains, 10)
    assert quiet.decide(mains, 69)
    assert quiet.decide(Power(hot=True), 69.5)
    assert quiet.why == "the machine is hot"
    assert quiet.decide(mains, 100)
    assert not quiet.decide(mains, 160)
    assert quiet.decide(battery, 161)
    quiet.want(False)
    assert not quiet.decide(battery, 162)
    assert Power(saving=True).why == "the machine saves power"


def test_batch_work_rests_and_a_chat_does_not(model_dir: Path, tmp_path: Path) -> None:
    bench = Bench(model_dir / "tiny-vl", tmp_path)
    try:
        alone = bench.ask("A question", max_tokens=12).tokens
        batch = bench.send("Tag this", max_tokens=200, tier=Tier.BATCH)
        waiting = threading.Event()
        end = time.monotonic() + 60
        while not batch.tokens and time.monotonic() < end:
            waiting.wait(0.005)
        bench.engine.hold(True)
        bench.on_engine(lambda: None)
        had = len(batch.tokens)
        later = bench.send("And this", max_tokens=2, tier=Tier.BATCH)
        assert bench.ask("A question", max_tokens=12).tokens == alone
        assert len(batch.tokens) == had
        assert not later.events
        bench.engine.hold(False)
        assert batch.ended.wait(120)
        assert later.ended.wait(120)
        assert len(batch.tokens) > had
    finally:
        bench.engine.stop()
