"""The table of settings: flags over environment over defaults, in both servers."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from host_api.app import config as host_config
from host_api.loopback import listen, settings
from host_api.loopback.settings import ConfigError
from sidecar import config as sidecar_config


def sidecar(*argv: str, **env: str) -> sidecar_config.Settings:
    parser = argparse.ArgumentParser()
    sidecar_config.add_arguments(parser)
    return sidecar_config.load(parser.parse_args(list(argv)), env)


def host(*argv: str, **env: str) -> host_config.HostSettings:
    return host_config.load(argv, env)


def test_the_command_line_wins_over_the_environment_and_that_over_the_default() -> None:
    assert sidecar().port == 60316
    assert sidecar(MLX_SIDECAR_PORT="1").port == 1
    assert sidecar("--port", "2", MLX_SIDECAR_PORT="1").port == 2
    assert host(MLX_HOST_ALLOW_ORIGIN="https://a, https://b").allow_origin == ("https://a", "https://b")
    assert sidecar(MLX_SIDECAR_MODEL_DIR="/a:/b").model_dir == (Path("/a"), Path("/b"))
    assert sidecar("--no-warm-start").warm_start is False
    assert sidecar(MLX_SIDECAR_WARM_START="off").warm_start is False


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("5m", 300.0), ("1h30m", 5400.0), ("500ms", 0.5)])
def test_times_may_be_written_as_people_write_them(text: str, seconds: float) -> None:
    assert sidecar("--drain-timeout", text).drain_timeout == seconds
    assert host(MLX_HOST_GRACE_TIME=text).grace_time == seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("PORT", "x"),
        ("MAX_ROWS", "0"),
        ("BATCH_SHARE", "0.95"),
        ("BATCH_SHARE", "nan"),
        ("GAP_BOUND", "0.5"),
        ("GRACE_TIME", "-1"),
        ("PULL_STALL", "0"),
        ("KEEP_ALIVE", "soon"),
        ("KV_BITS", "3"),
        ("HUB_MIRROR", "https://a,ftp://b"),
        ("WARM_START", "perhaps"),
        ("LOG_LEVEL", "loud"),
        ("IMAGE_SIDE", "-1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"(MLX_SIDECAR_{name}|--{name.lower().replace('_', '-')})"):
        sidecar(**{f"MLX_SIDECAR_{name}": value})


@pytest.mark.parametrize("argv", [["--temperature", "3"], ["--max-answer", "0"], ["--max-answer", "-5"]])
def test_the_host_services_numbers_have_bounds(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        host(*argv)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.5", "fe80::1%eth0", "box.lan"])
def test_nobody_listens_beyond_loopback_without_a_key(address: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    assert listen.beyond_loopback(address)
    for load, more in ((sidecar, ("--managed", "--open")), (sidecar, ()), (host, ("--open",))):
        with pytest.raises(ConfigError, match="other machines"):
            load("--host", address, *more)
        assert load("--host", address, *more, "--api-key-file", str(key)).host == address
    assert sidecar("--host", address, "--managed").host == address, "managed, it makes itself a key"
    assert host("--host", address).host == address, "it makes itself a key at its first start"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_none(address: str) -> None:
    assert not listen.beyond_loopback(address)
    assert sidecar("--host", address).host == address


@pytest.mark.parametrize("table", [sidecar_config.Settings, host_config.HostSettings])
def test_help_has_every_setting_once_in_groups(table: Any) -> None:
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser, table, "X_")
    text = parser.format_help()
    for f in fields(table):
        assert f"[X_{f.name.upper()}]" in "".join(text.split("\n")).replace(" ", "") or f"X_{f.name.upper()}" in text
        assert f"\n  {settings.flag_of(f.name)}" in text
    groups = {f.metadata["group"] for f in fields(table)}
    assert all(f"\n{group}:\n" in text for group in groups)
    assert len(groups) >= 5


def test_a_key_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("  secret \nmore\n")
    assert settings.read_key(path) == "secret"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        settings.read_key(path)
    with pytest.raises(ConfigError, match="can't be read"):
        settings.read_key(tmp_path / "none")
