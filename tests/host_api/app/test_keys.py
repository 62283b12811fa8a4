"""Providers' keys in a real keyring (the Secret Service of a session of its own), and without one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_api.app.data.keys import KeyStore
from tests.support.host_servers import host
from tests.support.servers import wait_for

NEEDED = ("dbus-daemon", "gnome-keyring-daemon")
SEARCH = "import keyring, sys; print(keyring.get_password('mlx-sidecar-host', sys.argv[1]))"


@pytest.fixture
def secret_service(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of programs that see an unlocked keyring of their own."""
    if sys.platform != "linux":
        pytest.skip("the Secret Service is Linux's")
    if missing := [n for n in NEEDED if shutil.which(n) is None]:
        pytest.fail(f"{' and '.join(missing)} missing (Debian: apt-get install dbus-daemon gnome-keyring).")
    home = tmp_path / "keyring"
    home.mkdir(mode=0o700)
    address = f"unix:path={home}/bus"
    # Nothing of the user's own session, nor a preloaded library that the daemons have no use for.
    plain = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "DISPLAY", "WAYLAND_DISPLAY")}
    env = {**plain, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    env["DBUS_SESSION_BUS_ADDRESS"] = address
    bus_command = ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={address}"]
    keyring_command = ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"]
    keyring_command.append(f"--control-directory={home}")
    with (home / "output").open("wb") as sink:
        bus = subprocess.Popen(bus_command, env=env, stdout=sink, stderr=sink)
        try:
            wait_for((home / "bus").exists, 20)
            ring = subprocess.Popen(keyring_command, env=env, stdin=subprocess.PIPE, stdout=sink, stderr=sink)
            try:
                assert ring.stdin is not None
                ring.stdin.write(b"a password\n")
                ring.stdin.close()
                wait_for((home / "control").exists, 20)
                yield {k: env[k] for k in ("DBUS_SESSION_BUS_ADDRESS", "HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")}
            finally:
                ring.terminate()
                ring.wait(10)
        finally:
            bus.terminate()
            bus.wait(10)


def test_a_key_is_kept_in_the_keyring_and_forgotten_with_its_provider(
    tmp_path: Path, data_dir: Path, secret_service: dict[str, str]
) -> None:
    def stored(provider: str) -> str:
        entry = f"{(tmp_path / 'data' / 'keys.json').resolve()}:{provider}"
        command = [sys.executable, "-c", SEARCH, entry]
        env = {**os.environ, **secret_service}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    with host(tmp_path, data_dir=data_dir, env=secret_service) as running, running.client() as http:
        body = {"name": "kept", "base_url": "http://127.0.0.1:9/v1", "api_key": "a-secret"}
        made = http.post("/models/providers", json=body).json()
        assert made["has_key"] is True
        assert stored(made["id"]) == "a-secret"
        assert not (tmp_path / "data" / "keys.json").exists()
        http.put(f"/models/providers/{made['id']}", json={"api_key": "another"})
        assert stored(made["id"]) == "another"
        http.delete(f"/models/providers/{made['id']}")
        assert stored(made["id"]) == "None"
        assert "a-secret" not in running.logs()


def test_without_a_keyring_a_private_file_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = KeyStore(path, use_keyring=False)
    keys.put("p", "secret")
    assert KeyStore(path, use_keyring=False).get("p") == "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys.drop("p")
    assert keys.get("p") is None
    path.write_text("not JSON")
    assert keys.get("p") is None
